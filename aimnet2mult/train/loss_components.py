"""The settings of the components of a loss, and the functions that they name."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from aimnet2mult.config.import_path import load_object
from aimnet2mult.errors import ConfigError

__all__ = ["LossFn", "SumFn", "check_keys", "find_functions"]

LossFn = Callable[..., Tensor]
"""Function of predictions and labels that returns the loss of a component."""
SumFn = Callable[..., tuple[Tensor, Tensor]]
"""Function of predictions and labels that returns the sum and the count of which the loss is the quotient."""


def check_keys(components: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the keys of the components of a loss.

    Raises:
        ConfigError: a key of the first component with a problem is missing or unknown.
    """
    for name, component in components.items():
        unknown = sorted(set(component) - {"fn", "weight", "kwargs"})
        missing = sorted({"fn", "weight"} - set(component))
        if unknown or missing:
            wrong = f"has no {missing[0]!r}" if missing else f"has an unknown key {unknown[0]!r}"
            raise ConfigError(f"loss component {name!r} {wrong}; expected fn, weight and kwargs")


def find_functions(name: str, component: Mapping[str, Any]) -> tuple[LossFn, SumFn | None]:
    """Return the function of a component with its arguments bound, and its sum-and-count function if it is a `mean`.

    Raises:
        ConfigError: the function does not accept the arguments.
    """
    key = f"fn of loss component {name!r}"
    function = load_object(component["fn"], key, "loss")
    if inspect.isclass(function) or not callable(function):
        raise ConfigError(f"{key} is {component['fn']}, which is not a function of y_pred and y_true")
    kwargs = component.get("kwargs") or {}
    try:
        inspect.signature(function).bind(y_pred=None, y_true=None, **kwargs)
    except TypeError as error:
        raise ConfigError(
            f"{key} is {component['fn']}, which does not accept kwargs {dict(kwargs)}: {error}"
        ) from error
    sum_and_count = getattr(function, "sum_and_count", None)
    return partial(function, **kwargs), sum_and_count and partial(sum_and_count, **kwargs)
