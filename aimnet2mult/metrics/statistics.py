"""Names and values of the error metrics, computed from error sums on the CPU. Does not import torch.

`_metrics` defines both the metrics that are declared and the values that are computed, so the two cannot disagree.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aimnet2mult.quantities import LABELS, Label

__all__ = [
    "BATCH",
    "POOLED",
    "QUANTITIES",
    "VALIDATION",
    "Layout",
    "MetricInfo",
    "Selection",
    "metric_info",
    "statistics",
]

QUANTITIES = ("square", "count", "absolute", "true", "true_square")
"""Sums over the components of a label: squared error, 1, absolute error, true value and its square."""

SPREAD_LIMIT = 1e-12
"""Smallest ratio of the sum of squares about the mean to the sum of squares that float64 sums can resolve."""

KIND_TEXT = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The order of the float64 cells in a slot of error sums.

    For each fidelity: ``quantities`` of each label, in this order; then, if energy is a label, the sum of squared
    energy errors per atom. The last two cells of a slot are the sum of the batch losses and the number of batches.

    Raises:
        ValueError: a label is unknown or repeated, or there is no label or no fidelity.
    """

    labels: tuple[str, ...]
    fidelities: int
    quantities: tuple[str, ...] = QUANTITIES
    """All of `QUANTITIES`, or the first two."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.labels if name not in LABELS]
        if unknown or not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels are {self.labels}; expected one or more of {tuple(LABELS)}, each once")
        if self.fidelities < 1:
            raise ValueError(f"the number of fidelities is {self.fidelities}; expected at least 1")

    @property
    def has_energy(self) -> bool:
        """Whether energy is a label."""
        return "energy" in self.labels

    @property
    def stride(self) -> int:
        """Number of cells of one fidelity."""
        return len(self.quantities) * len(self.labels) + self.has_energy

    @property
    def cells(self) -> int:
        """Number of cells of a slot."""
        return self.fidelities * self.stride + 2


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The metrics of a stream."""

    kinds: tuple[str, ...] = ("rmse",)
    """Kinds of metrics for each label: ``rmse``, ``mae``, ``r2``."""
    energy_per_atom: bool = False
    """Whether to add the RMSE of the energy error divided by the number of atoms."""
    per_fidelity: bool = False
    """Whether to add the metrics of each fidelity, if there are several."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """The sums that these metrics need; for RMSEs only, squares and counts."""
        return QUANTITIES if set(self.kinds) - {"rmse"} else QUANTITIES[:2]


BATCH = Selection()
"""Metrics of a single batch."""
POOLED = Selection(energy_per_atom=True, per_fidelity=True)
"""Metrics of a window or an epoch of training."""
VALIDATION = Selection(kinds=("rmse", "mae", "r2"), energy_per_atom=True, per_fidelity=True)
"""Metrics of a validation."""


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """The unit of a metric's values, the unit to display, and the text for chart titles."""

    source_unit: str = "1"
    unit: str = "1"
    text: str
    direction: Literal["min", "max"] | None = None
    """Whether lower or higher values are better; None if neither."""
    watch: bool = False
    """Whether the metric is steady enough for a rise to indicate a problem."""


def metric_info(labels: Sequence[str], fidelity_names: Sequence[str], selection: Selection) -> dict[str, MetricInfo]:
    """Describe every metric that `statistics` can return for these arguments, in display order."""
    return {metric.name: metric.info for metric in _metrics(labels, fidelity_names, selection)}


def statistics(
    slot: NDArray[np.float64], labels: Sequence[str], fidelity_names: Sequence[str], selection: Selection
) -> dict[str, float]:
    """Compute the metrics of one slot of `ErrorSums`, in source units.

    Names are ``E_rmse``, ``F_mae``, ``q_r2``, ``E_atom_rmse``, ``loss``; metrics of one fidelity are prefixed with
    its name, as in ``fid0/E_rmse``. Metrics without a prefix are computed from the sums of all fidelities. Metrics
    without any counted component are absent; a counted error that is not finite makes its metrics non-finite.

    R² is 1 - SSE / SST with SST = Σt² - (Σt)²/n, from sums that can be added over batches. The difference cancels:
    1 - R² has a relative error of about 1e-16 · Σt²/SST, which is 1e-10 if the mean is a thousand times the spread.
    R² is absent with fewer than two values, or if the spread is below a millionth of the values, which rounding errors
    cannot distinguish from zero.

    Args:
        slot: float64 of shape (cells,), see `Layout`.
        labels: names of the labels.
        fidelity_names: one name per fidelity.
        selection: which metrics to compute.

    Raises:
        ValueError: the slot has a different number of cells than these labels, fidelities and metrics need.
    """
    layout = Layout(labels=tuple(labels), fidelities=len(fidelity_names), quantities=selection.quantities)
    if slot.shape != (layout.cells,):
        raise ValueError(
            f"the slot has shape {slot.shape}; {len(labels)} labels and {len(fidelity_names)} fidelities need"
            f" ({layout.cells},)"
        )
    sums = slot[:-2].reshape(layout.fidelities, layout.stride)
    loss = slot[-2:].tolist()
    # Overflow to infinity is a legitimate result.
    with np.errstate(over="ignore", invalid="ignore"):
        pooled = sums.sum(axis=0)
    values = {}
    for metric in _cached_metrics(tuple(labels), tuple(fidelity_names), selection):
        row = pooled if metric.fidelity is None else sums[metric.fidelity]
        value = _mean(*loss) if metric.kind == "loss" else _value(metric, row.tolist(), layout)
        if value is not None:
            values[metric.name] = value
    return values


@dataclass(frozen=True, kw_only=True)
class _Metric:
    name: str
    kind: str
    info: MetricInfo
    label: str = ""
    fidelity: int | None = None


@functools.cache
def _cached_metrics(
    labels: tuple[str, ...], fidelity_names: tuple[str, ...], selection: Selection
) -> tuple[_Metric, ...]:
    """Return the metrics of `_metrics`, cached because computing them at each point would slow down training."""
    return tuple(_metrics(labels, fidelity_names, selection))


def _metrics(labels: Sequence[str], fidelity_names: Sequence[str], selection: Selection) -> Iterator[_Metric]:
    """Yield every metric of a selection; the single definition of which metrics exist and how they are named."""
    yield _Metric(name="loss", kind="loss", info=MetricInfo(text="loss", direction="min"))
    yield from _label_metrics(labels, selection, prefix="", suffix="", fidelity=None)
    if selection.per_fidelity and len(fidelity_names) > 1:
        for index, name in enumerate(fidelity_names):
            yield from _label_metrics(labels, selection, prefix=f"{name}/", suffix=f", {name}", fidelity=index)


def _label_metrics(
    labels: Sequence[str], selection: Selection, *, prefix: str, suffix: str, fidelity: int | None
) -> Iterator[_Metric]:
    for name in labels:
        label = LABELS[name]
        for kind in selection.kinds:
            info = _info(label, kind, f"{KIND_TEXT[kind]} of {label.text}{suffix}")
            yield _Metric(name=f"{prefix}{label.abbr}_{kind}", kind=kind, info=info, label=name, fidelity=fidelity)
    if selection.energy_per_atom and "energy" in labels:
        label = LABELS["energy"]
        info = _info(label, "rmse", f"RMSE of {label.text} per atom{suffix}")
        yield _Metric(
            name=f"{prefix}{label.abbr}_atom_rmse",
            kind="atom_rmse",
            info=info,
            label="energy",
            fidelity=fidelity,
        )


def _info(label: Label, kind: str, text: str) -> MetricInfo:
    if kind == "r2":
        return MetricInfo(text=text, direction="max")
    return MetricInfo(source_unit=label.source_unit, unit=label.unit, text=text, direction="min")


def _value(metric: _Metric, row: list[float], layout: Layout) -> float | None:
    """Compute a metric from the sums of one or all fidelities; None if nothing was counted."""
    start = layout.labels.index(metric.label) * len(layout.quantities)
    square, count, *others = row[start : start + len(layout.quantities)]
    if metric.kind == "rmse":
        return _root_mean(square, count)
    if metric.kind == "atom_rmse":
        return _root_mean(row[-1], count)
    absolute, true, true_square = others
    if metric.kind == "mae":
        return _mean(absolute, count)
    return _r_squared(square, true, true_square, count)


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def _root_mean(total: float, count: float) -> float | None:
    return math.sqrt(total / count) if count else None


def _r_squared(square: float, true: float, true_square: float, count: float) -> float | None:
    if count < 2:  # noqa: PLR2004 - a single value has no spread
        return None
    spread = true_square - true * (true / count)
    return 1.0 - square / spread if spread > SPREAD_LIMIT * true_square else None
