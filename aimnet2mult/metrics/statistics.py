"""What the sums of errors are called, and what they come to, on the host and without torch.

The metrics that are declared and the values that are computed are both read off `_metrics`, so
that neither can have a name that the other lacks.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aimnet2mult.labels import LABELS, Label

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
"""What is summed over the components of a label: err², 1, |err|, the true value and its square."""

SPREAD_LIMIT = 1e-12
"""Smallest (sum of squares about the mean) / (sum of squares) that float64 sums still resolve."""

KIND_TEXT = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What stands where in a slot of sums: a row of float64 cells.

    For each fidelity, ``quantities`` of each label, in this order, and then, where energy is a label,
    the sum of squared energy errors per atom. The last two cells of a slot are the sum of the
    batches' losses and their number.

    Raises ValueError for a label that is unknown or named twice, for no label and for no fidelity.
    """

    labels: tuple[str, ...]
    fidelities: int
    quantities: tuple[str, ...] = QUANTITIES
    """All of `QUANTITIES`, or the first two."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.labels if name not in LABELS]
        if unknown or not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels are {self.labels}; expected some of {tuple(LABELS)}, each once")
        if self.fidelities < 1:
            raise ValueError(f"there are {self.fidelities} fidelities; expected at least one")

    @property
    def has_energy(self) -> bool:
        return "energy" in self.labels

    @property
    def stride(self) -> int:
        """Cells of one fidelity."""
        return len(self.quantities) * len(self.labels) + self.has_energy

    @property
    def cells(self) -> int:
        """Cells of a slot."""
        return self.fidelities * self.stride + 2


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which metrics a stream shows."""

    kinds: tuple[str, ...] = ("rmse",)
    """Of each label: ``rmse``, ``mae``, ``r2``."""
    energy_per_atom: bool = False
    """Also the RMSE of the energy error divided by the structure's number of atoms."""
    per_fidelity: bool = False
    """Also each fidelity's own, where there are several."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """What has to be summed for these metrics: for RMSEs alone, squares and counts."""
        return QUANTITIES if set(self.kinds) - {"rmse"} else QUANTITIES[:2]


BATCH = Selection()
"""One iteration's batch."""
POOLED = Selection(energy_per_atom=True, per_fidelity=True)
"""A window, or an epoch, of training."""
VALIDATION = Selection(kinds=("rmse", "mae", "r2"), energy_per_atom=True, per_fidelity=True)


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """The unit a metric's values come in, the unit to show, and what a chart's title calls it."""

    source_unit: str = "1"
    unit: str = "1"
    text: str
    watch: bool = False
    """Whether its course is steady enough for a rise to be trouble."""


def metric_info(labels: Sequence[str], fidelity_names: Sequence[str], selection: Selection) -> dict[str, MetricInfo]:
    """Describe every metric that `statistics` can return for these arguments, in the order shown."""
    return {metric.name: metric.info for metric in _metrics(labels, fidelity_names, selection)}


def statistics(
    slot: NDArray[np.float64], labels: Sequence[str], fidelity_names: Sequence[str], selection: Selection
) -> dict[str, float]:
    """Compute the metrics of one slot of `ErrorSums`, in source units.

    Names are ``E_rmse``, ``F_mae``, ``q_r2``, ``E_atom_rmse``, ``loss``; those of one fidelity have
    its name before them, ``fid0/E_rmse``. Pooled metrics are those of all fidelities' sums. What
    nothing was counted for is absent; a counted error that is not finite shows as such.

    R² is 1 - SSE / SST with SST = Σt² - (Σt)²/n, from sums that can be added over batches. The
    difference cancels: 1 - R² has a relative error of some 1e-16 · Σt²/SST, so 1e-10 where the
    mean is a thousand times the spread. With fewer than two values, or a spread that is less than
    a millionth of the values, which rounding cannot tell from none, R² is absent.

    Raises:
        ValueError: the slot has another number of cells than these labels, fidelities and metrics need.
    """
    layout = Layout(labels=tuple(labels), fidelities=len(fidelity_names), quantities=selection.quantities)
    if slot.shape != (layout.cells,):
        raise ValueError(
            f"the slot has shape {slot.shape}; its metrics need ({layout.cells},) of {len(labels)} labels and"
            f" {len(fidelity_names)} fidelities"
        )
    sums = slot[:-2].reshape(layout.fidelities, layout.stride)
    loss = slot[-2:].tolist()
    # An overflow to infinity is a result that is shown, not a fault of the calculation.
    with np.errstate(over="ignore", invalid="ignore"):
        pooled = sums.sum(axis=0)
    values = {}
    for metric in _chosen(tuple(labels), tuple(fidelity_names), selection):
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
def _chosen(labels: tuple[str, ...], fidelity_names: tuple[str, ...], selection: Selection) -> tuple[_Metric, ...]:
    """Return what `_metrics` yields; it is the same at each point, and each takes time from the training thread."""
    return tuple(_metrics(labels, fidelity_names, selection))


def _metrics(labels: Sequence[str], fidelity_names: Sequence[str], selection: Selection) -> Iterator[_Metric]:
    """Yield every metric of a selection: this decides which there are and what they are called."""
    yield _Metric(name="loss", kind="loss", info=MetricInfo(text="loss"))
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
        return MetricInfo(text=text)
    return MetricInfo(source_unit=label.source_unit, unit=label.unit, text=text)


def _value(metric: _Metric, row: list[float], layout: Layout) -> float | None:
    """Compute a metric from the sums of one fidelity, or of all; None where nothing was counted."""
    start = layout.labels.index(metric.label) * len(layout.quantities)
    square, count, *others = row[start : start + len(layout.quantities)]
    if metric.kind == "rmse":
        return _root_mean(square, count)
    if metric.kind == "atom_rmse":
        return _root_mean(row[-1], count)
    absolute, true, true_square = others
    if metric.kind == "mae":
        return _mean(absolute, count)
    return _determination(square, true, true_square, count)


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def _root_mean(total: float, count: float) -> float | None:
    return math.sqrt(total / count) if count else None


def _determination(square: float, true: float, true_square: float, count: float) -> float | None:
    if count < 2:  # noqa: PLR2004 - the spread of one value is none
        return None
    spread = true_square - true * (true / count)
    return 1.0 - square / spread if spread > SPREAD_LIMIT * true_square else None
