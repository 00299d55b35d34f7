"""Build the optimizer and the learning rate schedule from the configuration."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from aimnet2mult.config.import_path import load_object
from aimnet2mult.config.value_checks import VALIDATION_REMEDY
from aimnet2mult.errors import ConfigError
from aimnet2mult.train.nested_scheduler import check_entries, find_maker, is_ignite, make_scheduler
from aimnet2mult.train.restoring import check_alike
from aimnet2mult.train.schedule_length import check_length
from aimnet2mult.train.validation_metrics import ValidationMetrics

__all__ = ["Schedule", "build_optimizer", "build_scheduler", "group_indices"]

Step = Literal["iteration", "epoch", "val"]
STEPS: tuple[Step, ...] = ("iteration", "epoch", "val")
MEASURED = ("mode", "mode_worse", "best", "num_bad_epochs", "cooldown_counter")
"""Parts of the state of ReduceLROnPlateau that depend on its mode and on earlier values."""
STATE_VERSION = 2
"""Version of the state of a `Schedule`; in version 1, the validation loss was the mean of the batch losses."""


def build_optimizer(model: nn.Module, cfg: Mapping[str, Any]) -> Optimizer:
    """Build the optimizer described by the ``optimizer`` section.

    Args:
        model: the model to train. Parameters whose names match (`re.search`) one of ``force_no_train`` are frozen; then
            those that match one of ``force_train`` are unfrozen.
        cfg: ``class`` and ``kwargs``; ``force_no_train`` and ``force_train``, lists of regular expressions;
            ``param_groups``: for each name, the regular expression ``re`` and settings that override ``kwargs``. A
            parameter belongs to the first group that it matches, or else to a default group, which comes first.
            Groups whose parameters are all frozen are omitted.

    Raises:
        ConfigError: a key, class or setting is unknown; a regular expression is invalid, matches no parameter, or
            only parameters of earlier groups; or there is nothing to train.
    """
    _reject_unknown_keys("optimizer", cfg, ("class", "kwargs", "force_no_train", "force_train", "param_groups"))
    _set_trainable(model, "force_no_train", cfg.get("force_no_train") or (), train=False)
    _set_trainable(model, "force_train", cfg.get("force_train") or (), train=True)
    overrides = cfg.get("param_groups") or {}
    groups = _groups(model, overrides)
    if not groups:
        raise ConfigError("optimizer.force_no_train freezes all parameters of the model; leave some to train")
    optimizer = _instantiate(_optimizer_class(cfg), groups, cfg.get("kwargs") or {})
    for name, override in overrides.items():
        # torch silently accepts unknown settings.
        known = ("re", *optimizer.defaults)
        _reject_unknown_keys(f"optimizer.param_groups.{name}", override, known)
    return optimizer


def build_scheduler(optimizer: Optimizer, cfg: Mapping[str, Any] | None, *, metrics: ValidationMetrics) -> "Schedule":
    """Build the schedule described by the ``scheduler`` section; None keeps the learning rate constant.

    Args:
        optimizer: the optimizer whose learning rates are scheduled.
        cfg: ``class``, a scheduler of torch or a parameter scheduler of ignite, and ``kwargs``, which may contain
            further schedulers, each as a mapping with ``class`` and ``kwargs``; ``step``, when it steps: after each
            ``iteration``, ``epoch`` or validation (``val``); by default, after each epoch for torch and after each
            iteration for ignite. ReduceLROnPlateau steps after validations and uses the metric ``metric_name``:
            ``loss`` (the default) or another validation metric such as ``E_rmse``; ``val_loss`` and ``val/loss`` are
            accepted too. Its ``mode`` follows from the metric: ``max`` for R², otherwise ``min``. A scheduler of ignite
            sets the same value in all parameter groups, unless ``param_group_index`` selects one, from the first
            iteration (or the first validation) on.
        metrics: the validation metrics.

    Raises:
        ConfigError: a key, class, argument or metric is unknown, they do not fit together, or the validation data have
            no labels for the metric.
    """
    if cfg is None:
        return Schedule(None)
    _reject_unknown_keys("scheduler", cfg, ("class", "kwargs", "step", "metric_name"))
    make = find_maker(cfg, "scheduler")
    plateau = isinstance(make, type) and issubclass(make, ReduceLROnPlateau)
    ignite = not isinstance(make, type) or is_ignite(make)
    step = cfg.get("step") or ("val" if plateau else "iteration" if ignite else "epoch")
    if step not in STEPS:
        raise ConfigError(f"scheduler.step is {step!r}; expected one of {', '.join(STEPS)}")
    if plateau and step != "val":
        raise ConfigError(f"scheduler.step is {step!r}; {make.__name__} needs val, since it uses a validation metric")
    if step == "val" and not metrics.known:
        raise ConfigError(f"scheduler.step is 'val', but no structures are for validation; {VALIDATION_REMEDY}")
    metric = _metric(cfg, metrics, plateau=plateau)
    kwargs = cfg.get("kwargs") or {}
    if metric is not None:
        kwargs = _with_mode(kwargs, metric, metrics)
    scheduler = make_scheduler(make, optimizer, kwargs, "scheduler")
    if ignite and step != "val":
        scheduler(None)
    return Schedule(scheduler, step=step, metric=metric)


class Schedule:
    """A scheduler that steps after each iteration, epoch or validation; the loop reports all three to it."""

    def __init__(self, scheduler: Any, *, step: Step = "epoch", metric: str | None = None) -> None:
        self._scheduler = scheduler
        self._step = step
        self._metric = metric

    @property
    def needs_validation(self) -> bool:
        """Whether `step_validation` uses its metrics."""
        return self._metric is not None

    def check_length(self, *, iterations: int, epochs: int, validations: int) -> list[str]:
        """Return warnings if the schedule is shorter than a training of this length.

        Raises:
            ConfigError: it cannot continue after its end.
        """
        counts = {"iteration": iterations, "epoch": epochs, "val": validations}
        unit = "validations" if self._step == "val" else f"{self._step}s"
        return [] if self._scheduler is None else check_length(self._scheduler, counts[self._step], unit)

    def step_iteration(self) -> None:
        """Step if the scheduler steps after iterations; call this after the optimizer's step."""
        self._advance("iteration")

    def step_epoch(self) -> None:
        """Step if the scheduler steps after epochs."""
        self._advance("epoch")

    def step_validation(self, metrics: Mapping[str, float]) -> None:
        """Step if the scheduler steps after validations and its metric, if any, is among the ``metrics``."""
        if self._metric is None:
            self._advance("val")
        elif self._metric in metrics:
            self._advance("val", metrics[self._metric])

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`; empty without a scheduler."""
        if self._scheduler is None:
            return {}
        state = self._scheduler.state_dict()
        return {"class": type(self._scheduler).__name__, "state": state, "version": STATE_VERSION}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from `state_dict`.

        Raises:
            ConfigError: it is the state of a scheduler of another class.
        """
        found = state.get("class")
        expected = None if self._scheduler is None else type(self._scheduler).__name__
        if found != expected:
            raise ConfigError(f"the checkpoint has scheduler {found}; the configuration has {expected}")
        if self._scheduler is not None:
            comparable = self._metric != "loss" or state.get("version", 1) >= STATE_VERSION
            saved = _comparable(state["state"], self._scheduler, comparable=comparable)
            check_alike(self._scheduler.state_dict(), saved, "state")
            check_entries(self._scheduler, saved)
            self._scheduler.load_state_dict(saved)

    def _advance(self, step: Step, *metric: float) -> None:
        if self._scheduler is None or step != self._step:
            return
        if is_ignite(type(self._scheduler)):
            self._scheduler(None)
        else:
            # Only ReduceLROnPlateau takes a metric.
            self._scheduler.step(*metric)


def _with_mode(kwargs: Mapping[str, Any], metric: str, metrics: ValidationMetrics) -> Mapping[str, Any]:
    """Return the arguments of a plateau scheduler with the mode that the metric needs."""
    mode, better = ("max", "higher") if metrics.is_better_when_higher(metric) else ("min", "lower")
    given = kwargs.get("mode", mode)
    if given != mode:
        raise ConfigError(
            f"scheduler.kwargs.mode is {given!r}, but {better} values of {metric} are better; remove it or set {mode}"
        )
    # By default, torch demands an improvement relative to the best value, which is a deterioration if that is negative.
    threshold = {"threshold_mode": "abs"} if mode == "max" else {}
    return {**threshold, **kwargs, "mode": mode}


def _comparable(state: Mapping[str, Any], scheduler: Any, *, comparable: bool) -> dict[str, Any]:
    """Return the state of a scheduler without what a plateau scheduler measured in the other mode or another way.

    Before version 0.2, the mode did not follow from the metric.
    """
    mode = getattr(scheduler, "mode", None)
    keeps = mode is None or (comparable and state.get("mode", mode) == mode)
    return {key: value for key, value in state.items() if keeps or key not in MEASURED}


def _metric(cfg: Mapping[str, Any], metrics: ValidationMetrics, *, plateau: bool) -> str | None:
    """Return the name of the metric that the scheduler uses, without a prefix; None if it uses none."""
    name = cfg.get("metric_name")
    if not plateau:
        if name is not None:
            raise ConfigError(f"scheduler.metric_name is {name!r}; {cfg['class']} uses no metric; remove it")
        return None
    return metrics.find(str(name or "loss"), "scheduler.metric_name")


def group_indices(model: nn.Module, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the position of each named parameter group in the optimizer that `build_optimizer` has built.

    Args:
        model: the model, whose parameters to freeze are frozen.
        overrides: the section ``param_groups``.
    """
    return {name: index for index, name in enumerate(_members(model, overrides)) if name is not None}


def _groups(model: nn.Module, overrides: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the non-empty parameter groups, the default group first."""
    members = _members(model, overrides)
    return [{"params": parameters, **_settings(overrides, group)} for group, parameters in members.items()]


def _members(model: nn.Module, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str | None, list[nn.Parameter]]:
    """Return the parameters of each group that has any, by name; the default group, None, comes first."""
    named = list(model.named_parameters())
    members: dict[str | None, list[nn.Parameter]] = {None: [], **{name: [] for name in overrides}}
    matched: dict[str, list[nn.Parameter]] = {}
    for group, override in overrides.items():
        key = f"optimizer.param_groups.{group}"
        if "re" not in override or "params" in override:
            wrong = "has no 're'" if "re" not in override else "has 'params'"
            raise ConfigError(f"{key} {wrong}; select its parameters with a regular expression 're'")
        matched[group] = _find_matching(override["re"], named, f"{key}.re")
    for _, parameter in named:
        if parameter.requires_grad:
            matching = (group for group, found in matched.items() if any(p is parameter for p in found))
            members[next(matching, None)].append(parameter)
    for group, found in matched.items():
        if not members[group] and any(p.requires_grad for p in found):
            raise ConfigError(
                f"optimizer.param_groups.{group} has no parameters: earlier groups match all of them; change the order"
            )
    return {group: parameters for group, parameters in members.items() if parameters}


def _settings(overrides: Mapping[str, Mapping[str, Any]], group: str | None) -> dict[str, Any]:
    return {} if group is None else {key: value for key, value in overrides[group].items() if key != "re"}


def _set_trainable(model: nn.Module, name: str, expressions: Sequence[str], *, train: bool) -> None:
    if isinstance(expressions, str):
        raise ConfigError(f"optimizer.{name} is {expressions!r}; expected a list of regular expressions")
    for expression in expressions:
        for parameter in _find_matching(expression, list(model.named_parameters()), f"optimizer.{name}"):
            parameter.requires_grad_(train)


def _find_matching(expression: object, named: Sequence[tuple[str, nn.Parameter]], key: str) -> list[nn.Parameter]:
    """Return the parameters whose names match; raise ConfigError if there are none or the expression is invalid."""
    try:
        pattern = re.compile(expression)  # type: ignore[call-overload]
    except (re.error, TypeError) as error:
        raise ConfigError(f"{key} is {expression!r}, which is not a regular expression: {error}") from error
    found = [parameter for name, parameter in named if pattern.search(name)]
    if not found:
        some = ", ".join(name for name, _ in named[:3])
        raise ConfigError(f"{key} is {expression!r}, which matches no parameter of the model ({some}, …)")
    return found


def _optimizer_class(cfg: Mapping[str, Any]) -> Any:
    if "class" not in cfg:
        raise ConfigError("optimizer has no 'class'; expected the dotted path of an Optimizer")
    cls = load_object(cfg["class"], "optimizer.class", "optimizer")
    if not isinstance(cls, type) or not issubclass(cls, Optimizer):
        raise ConfigError(f"optimizer.class is {cfg['class']}, which is not a {Optimizer.__module__}.Optimizer")
    return cls


def _instantiate(cls: Any, groups: list[dict[str, Any]], kwargs: Mapping[str, Any]) -> Optimizer:
    try:
        optimizer: Optimizer = cls(groups, **kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: cannot build {cls.__name__} with {dict(kwargs)}: {error}") from error
    return optimizer


def _reject_unknown_keys(section: str, cfg: Mapping[str, Any], known: Collection[str]) -> None:
    for key in cfg:
        if key not in known:
            raise ConfigError(f"{section} has no key {key!r}; its keys are {', '.join(known)}")
