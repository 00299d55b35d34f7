"""Build a scheduler from settings in which its arguments may be schedulers, too."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from aimnet2mult.config.import_path import load_object
from aimnet2mult.errors import ConfigError

__all__ = ["check_entries", "find_maker", "is_ignite", "make_scheduler"]

IGNITE = "ignite.handlers.param_scheduler"
IGNITE_SCHEDULERS = ("ParamScheduler", "ParamGroupScheduler")
WARM_UP = "create_lr_scheduler_with_warmup"
"""The only function that may be named instead of a class."""
KEYS = ("class", "kwargs")
PLAIN = (bool, int, float, str, type(None), Tensor)


def find_maker(cfg: Mapping[str, Any], key: str) -> Any:
    """Return the class of a scheduler, or ignite's function that creates one with a warm-up.

    Raises:
        ConfigError: it is unknown, not trusted, or none of these.
    """
    if "class" not in cfg:
        raise ConfigError(f"{key} has no 'class'; expected the dotted path of an LRScheduler")
    make = load_object(cfg["class"], f"{key}.class", "scheduler")
    is_class = isinstance(make, type) and (issubclass(make, LRScheduler) or is_ignite(make))
    if not is_class and (getattr(make, "__module__", ""), getattr(make, "__name__", "")) != (IGNITE, WARM_UP):
        raise ConfigError(f"{key}.class is {cfg['class']}, which is not a {LRScheduler.__module__}.LRScheduler")
    if "metric_name" in inspect.signature(make).parameters:
        raise ConfigError(f"{key}.class is {cfg['class']}; use torch.optim.lr_scheduler.ReduceLROnPlateau instead")
    return make


def is_ignite(cls: Any) -> bool:
    """Return whether this is a parameter scheduler class of ignite, without importing ignite's schedulers."""
    return any(base.__module__ == IGNITE and base.__name__ in IGNITE_SCHEDULERS for base in getattr(cls, "__mro__", ()))


def make_scheduler(make: Any, optimizer: Optimizer, kwargs: Mapping[str, Any], key: str) -> Any:
    """Create a scheduler of an optimizer.

    Args:
        make: a result of `find_maker`.
        optimizer: the optimizer, which is also that of all nested schedulers.
        kwargs: the arguments; a mapping with a ``class``, at any depth, is a nested scheduler. Arguments that settings
            cannot express are converted: the pairs of ignite's ``milestones_values``.
        key: the setting, for error messages.

    Raises:
        ConfigError: a nested scheduler is unknown or needs a metric, the arguments do not fit, or the state of the
            scheduler cannot be stored in a checkpoint.
    """
    built = {name: _build_nested(optimizer, value, f"{key}.kwargs.{name}") for name, value in kwargs.items()}
    name, parameters = make.__name__, inspect.signature(make).parameters
    _reject_mixture(make, built, key)
    if "milestones_values" in built and isinstance(built["milestones_values"], list):
        built["milestones_values"] = [
            tuple(pair) if isinstance(pair, list) else pair for pair in built["milestones_values"]
        ]
    # The cyclical schedulers of ignite pass everything on.
    passes_on = is_ignite(make) and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if passes_on or "param_name" in parameters:
        built = {"param_name": "lr", **built}
    if "optimizer" in parameters:
        built = {**built, "optimizer": optimizer}
    # A class of another package may call its first argument differently.
    first = () if "optimizer" in parameters or _schedulers_in(built) else (optimizer,)
    try:
        scheduler = make(*first, **built)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: cannot build {name} with {dict(kwargs)}: {error}") from error
    if not _is_plain(scheduler.state_dict()):
        raise ConfigError(f"{key}.class: {name} cannot be used here, because a checkpoint cannot contain its state")
    return scheduler


def check_entries(scheduler: Any, state: Mapping[str, Any]) -> None:
    """Check that a state would not replace the optimizer or a method; torch sets an attribute for each entry.

    Raises:
        ValueError: it would.
    """
    for key in state:
        if key == "optimizer" or callable(getattr(type(scheduler), key, None)):
            raise ValueError(f"unknown entry {key!r}")
    for name, entry in (("_schedulers", "_schedulers"), ("schedulers", "schedulers")):
        for inner, saved in zip(getattr(scheduler, name, ()), state.get(entry, ()), strict=False):
            check_entries(inner, saved[1] if isinstance(saved, tuple | list) else saved)
    if isinstance(state.get("lr_scheduler"), Mapping):
        check_entries(scheduler.lr_scheduler, state["lr_scheduler"])


def _build_nested(optimizer: Optimizer, value: Any, key: str) -> Any:
    """Return an argument with a scheduler in place of each mapping with a class."""
    if isinstance(value, list):
        return [_build_nested(optimizer, item, f"{key}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, Mapping) or "class" not in value:
        return value
    for name in value:
        if name not in KEYS:
            raise ConfigError(f"{key} has no key {name!r}; its keys are {', '.join(KEYS)}")
    make = find_maker(value, key)
    if isinstance(make, type) and issubclass(make, ReduceLROnPlateau):
        raise ConfigError(f"{key}.class is {value['class']}, which needs a metric and cannot be part of another one")
    return make_scheduler(make, optimizer, value.get("kwargs") or {}, key)


def _reject_mixture(make: Any, built: Mapping[str, Any], key: str) -> None:
    # torch would fail later, and not in one line.
    if isinstance(make, type) and issubclass(make, LRScheduler) and any(map(_is_ignites, _schedulers_in(built))):
        raise ConfigError(f"{key}.class: {make.__name__} of torch cannot contain schedulers of ignite")


def _schedulers_in(built: Mapping[str, Any]) -> list[Any]:
    values = [item for value in built.values() for item in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, LRScheduler) or _is_ignites(value)]


def _is_ignites(value: object) -> bool:
    return is_ignite(type(value))


def _is_plain(state: object) -> bool:
    """Return whether a state consists of values that the safe loader of checkpoints reads back."""
    if isinstance(state, Mapping):
        return all(map(_is_plain, state.values()))
    return all(map(_is_plain, state)) if isinstance(state, list | tuple) else isinstance(state, PLAIN)
