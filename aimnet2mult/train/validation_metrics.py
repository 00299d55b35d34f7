"""The validation metrics that a setting may name: they exist, and the validation data have labels for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aimnet2mult.config.value_checks import VALIDATION_REMEDY as REMEDY
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.declarations import bare_name
from aimnet2mult.metrics.statistics import VALIDATION, MetricInfo, metric_info
from aimnet2mult.quantities import Label

__all__ = ["ValidationMetrics", "find_validation_metrics", "possible_metrics"]


BLOCK = 1024
"""Number of structures that are read at once."""


@dataclass(frozen=True, kw_only=True)
class ValidationMetrics:
    """The validation metrics of a run."""

    known: Mapping[str, MetricInfo]
    """All metrics by name; none without validation data."""
    available: Sequence[str]
    """Names of the metrics for which the validation data have labels."""

    def find(self, name: str, setting: str) -> str:
        """Return the name of a metric without the prefix ``val/`` or ``val_``.

        Raises:
            ConfigError: there is no such metric, there are no validation data, or they have no labels for it; the
                message names the setting.
        """
        metric = bare_name(name)
        if not self.known:
            raise ConfigError(f"{setting} is {name!r}, but no structures are for validation; {REMEDY}")
        if metric not in self.known:
            raise ConfigError(f"{setting} is {name!r}; expected one of {', '.join(self.known)}")
        if metric not in self.available:
            raise ConfigError(
                f"{setting} is {name!r}, but the validation data have no labels for it; "
                f"available: {', '.join(self.available) or 'none, because there are no labels at all'}"
            )
        return metric

    def is_better_when_higher(self, metric: str) -> bool:
        """Return whether higher values of a metric are better."""
        return self.known[metric].better == "higher"


def find_validation_metrics(
    data: MixedData, labels: Sequence[Label], fidelity_names: Sequence[str], components: Sequence[str] = ()
) -> ValidationMetrics:
    """Return the metrics of a run, none without validation data.

    Those without a finite value in the validation labels are not available.

    R² is not available either if all values are equal. The labels of the ``components`` of the loss are not known.
    """
    if not len(data.val):
        return ValidationMetrics(known={}, available=[])
    available = {f"loss_{name}" for name in components}
    for label in labels:
        ranges = _ranges(data, label.name)
        available |= _names(label, list(ranges.values()))
        for fidelity, limits in ranges.items():
            prefix = fidelity_names[fidelity]
            available |= {f"{prefix}/{name}" for name in _names(label, [limits]) if name != "loss"}
    known = possible_metrics(labels, fidelity_names, components)
    return ValidationMetrics(known=known, available=[name for name in known if name in available])


def possible_metrics(
    labels: Sequence[Label], fidelity_names: Sequence[str], components: Sequence[str]
) -> dict[str, MetricInfo]:
    """Return the validation metrics whose lower or higher values are better, by name, whatever the data contain."""
    metrics = metric_info(labels, fidelity_names, VALIDATION, components)
    return {name: info for name, info in metrics.items() if info.better is not None}


def _names(label: Label, ranges: Sequence[tuple[float, float]]) -> set[str]:
    """Return the metrics of a label, without a prefix; ``ranges`` are those of its finite values."""
    if not ranges:
        return set()
    varies = min(low for low, _ in ranges) < max(high for _, high in ranges)
    return {name for name in metric_info([label], [""], VALIDATION) if varies or not name.endswith("_r2")}


def _ranges(data: MixedData, label: str) -> dict[int, tuple[float, float]]:
    """Return a low and a high finite value of a validation label, by fidelity; equal ones only if all values are."""
    ranges: dict[int, tuple[float, float]] = {}
    for group in data.val.groups:
        for fidelity, rows in group.runs:
            for start in range(rows.start, rows.stop, BLOCK):
                low, high = ranges.get(fidelity, (np.inf, -np.inf))
                if low < high:
                    break
                values = group.read(np.arange(start, min(start + BLOCK, rows.stop)), [label])[label]
                finite = values[np.isfinite(values)]
                if finite.size:
                    ranges[fidelity] = min(low, float(finite.min())), max(high, float(finite.max()))
    return ranges
