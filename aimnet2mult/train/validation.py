"""Which validation was the best so far."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from aimnet2mult.errors import ConfigError

__all__ = ["Best"]


class Best:
    """The best value of a validation's metric: the lowest, or the highest of an R².

    ``metric`` may be written ``loss``, ``val_loss`` or ``val/loss``; None watches nothing. Raises ConfigError if
    it is not in ``metrics``.
    """

    def __init__(self, metric: str | None, metrics: Collection[str]) -> None:
        self.metric = None if metric is None else metric.removeprefix("val/").removeprefix("val_")
        if self.metric is not None and self.metric not in metrics:
            raise ConfigError(f"checkpoint.best is {metric!r}; the validation has {', '.join(metrics)}")
        self._value = math.inf

    def improved(self, metrics: Mapping[str, float]) -> bool:
        """Say whether this validation is better than all before it; one without the metric, or with NaN, is not."""
        if self.metric is None:
            return False
        value = metrics.get(self.metric, math.nan)
        value = -value if self.metric.endswith("_r2") else value
        if not value < self._value:
            return False
        self._value = value
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs."""
        return {"metric": self.metric, "value": self._value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; where another metric was watched, from the beginning."""
        if state.get("metric") == self.metric:
            self._value = state.get("value", math.inf)
