"""Find out when a validation metric no longer improves. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aimnet2mult.config.sections import EarlyStopping as Settings

if TYPE_CHECKING:
    from aimnet2mult.train.validation_metrics import ValidationMetrics

__all__ = ["EarlyStopping", "describe_stop"]


class EarlyStopping:
    """The best value of a validation metric so far, and the number of validations since then.

    A validation improves the metric if it is better than the best value by more than ``min_delta``; a missing or NaN
    value is no improvement.

    Args:
        settings: the section ``trainer.early_stopping``; without a metric, the training never stops early.
        metrics: the validation metrics.

    Raises:
        ConfigError: the metric is unknown, or the validation data have no labels for it.
    """

    def __init__(self, settings: Settings, metrics: ValidationMetrics) -> None:
        name = settings.metric
        self.metric = None if name is None else metrics.find(name, "trainer.early_stopping.metric")
        self._sign = -1 if self.metric is not None and metrics.is_better_when_higher(self.metric) else 1
        self._settings = settings
        self._value, self._iteration, self._waited = math.inf, 0, 0

    def update(self, metrics: Mapping[str, float], iteration: int) -> None:
        """Record the validation after an iteration."""
        if self.metric is None:
            return
        value = self._sign * metrics.get(self.metric, math.nan)
        if value < self._value - self._settings.min_delta:
            self._value, self._iteration, self._waited = value, iteration, 0
        else:
            self._waited += 1

    def reason(self, epoch_length: int) -> str:
        """Return why the training should stop, or "" if it should not."""
        if self.metric is None or self._waited < self._settings.patience:
            return ""
        return describe_stop(self.metric, self._waited, self._iteration, epoch_length)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`; its keys are part of the format of checkpoints.

        ``value`` is the best value, multiplied by -1 if higher values are better, ``iteration`` when it was found, and
        ``waited`` the number of validations since then.
        """
        return {"metric": self.metric, "value": self._value, "iteration": self._iteration, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from `state_dict`; that of another metric is ignored."""
        if state.get("metric") == self.metric:
            self._value = state.get("value", math.inf)
            self._iteration, self._waited = state.get("iteration", 0), state.get("waited", 0)


def describe_stop(metric: str, waited: int, iteration: int, epoch_length: int) -> str:
    """Return that a metric has not improved since an iteration, for a message."""
    validations = "validation" if waited == 1 else f"{waited} validations"
    best = f"the best was after iteration {iteration}, in epoch {-(-iteration // epoch_length)}"
    return f"val/{metric} has not improved in the last {validations}; {best if iteration else 'it was never finite'}"
