"""Conversion of metrics and errors to the units of the run."""

from collections.abc import Mapping, Sequence

from aimnet2mult.config.schema import Config
from aimnet2mult.metrics.declarations import declare
from aimnet2mult.quantities import Label
from telemetry import Metric
from telemetry.units import factors

__all__ = ["DisplayUnits"]


class DisplayUnits:
    """The units and conversion factors of the metrics of a validation, and of further metrics of the same labels.

    Args:
        labels: the labels.
        config: the settings, with the units and the components of the loss.
    """

    def __init__(self, labels: Sequence[Label], config: Config) -> None:
        declared = declare(labels, [""], config.units, config.loss.components)
        metrics = {
            name.removeprefix("val/"): Metric(unit=info.unit, source_unit=info.source_unit)
            for name, info in declared.items()
            if name.startswith("val/")
        }
        self._units = {name: metric.unit for name, metric in metrics.items()}
        self._factors = factors(metrics)

    def unit(self, metric: str) -> str:
        """Return the unit of a metric, such as ``E_rmse`` or ``E_max``; ``1`` for counts."""
        if _is_count(metric):
            return "1"
        return self._units.get(metric) or self._units[_rmse_of(metric)]

    def factor(self, metric: str) -> float:
        """Return the factor that converts the source unit of a metric to its unit."""
        return self._factors[metric] if metric in self._factors else self._factors[_rmse_of(metric)]

    def convert(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return metrics in their units."""
        return {name: value if _is_count(name) else value * self.factor(name) for name, value in values.items()}


def _is_count(metric: str) -> bool:
    return metric.rpartition("_")[2] == "structures"


def _rmse_of(metric: str) -> str:
    """Return the metric of the same label that a run records: ``E_rmse`` for ``E_max``."""
    return f"{metric.rpartition('_')[0]}_rmse"
