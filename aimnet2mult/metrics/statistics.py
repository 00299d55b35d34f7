"""Names and values of the error metrics, computed from error sums on the CPU. Does not import torch.

`_metrics` defines both the metrics that are declared and the values that are computed, so the two cannot disagree.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aimnet2mult.metrics.layout import NO_TERMS, QUANTITIES, Layout, LossTerms
from aimnet2mult.quantities import Label

__all__ = [
    "BATCH",
    "POOLED",
    "VALIDATION",
    "MetricInfo",
    "Selection",
    "metric_info",
    "statistics",
]

SPREAD_LIMIT = 1e-12
"""Smallest ratio of the sum of squares about the mean to the sum of squares that float64 sums can resolve."""

KIND_TEXT = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The metrics of a stream."""

    kinds: tuple[str, ...] = ("rmse",)
    """Kinds of metrics for each label: ``rmse``, ``mae``, ``r2``."""
    energy_per_atom: bool = False
    """Whether to add the RMSE of the energy error divided by the number of atoms."""
    per_fidelity: bool = False
    """Whether to add the metrics of each fidelity, if there are several."""
    loss_components: bool = False
    """Whether to add the mean of each component of the loss."""
    skipped: str | None = None
    """What the count of skipped items counts, which is added as ``skipped_steps`` or ``skipped_structures``."""

    @property
    def quantities(self) -> tuple[str, ...]:
        """The sums that these metrics need; for RMSEs only, squares and counts."""
        return QUANTITIES if set(self.kinds) - {"rmse"} else QUANTITIES[:2]


BATCH = Selection()
"""Metrics of a single batch."""
POOLED = Selection(energy_per_atom=True, per_fidelity=True, loss_components=True, skipped="steps")
"""Metrics of a window or an epoch of training."""
VALIDATION = Selection(
    kinds=("rmse", "mae", "r2"), energy_per_atom=True, per_fidelity=True, loss_components=True, skipped="structures"
)
"""Metrics of a validation."""


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """The unit of a metric's values, the unit to display, and the text for chart titles."""

    source_unit: str = "1"
    unit: str = "1"
    text: str
    better: Literal["lower", "higher"] | None = None
    """Whether lower or higher values are better; None if neither."""
    watch: bool = False
    """Whether the metric is steady enough for a rise to indicate a problem."""
    main: bool = False
    """Whether the metric is one of the few that are shown first."""


def metric_info(
    labels: Sequence[Label], fidelity_names: Sequence[str], selection: Selection, components: Sequence[str] = ()
) -> dict[str, MetricInfo]:
    """Describe every metric that `statistics` can return for these arguments, in display order.

    Args:
        labels: the labels.
        fidelity_names: one name per fidelity.
        selection: which metrics to describe.
        components: names of the components of the loss.
    """
    return {metric.name: metric.info for metric in _metrics(labels, fidelity_names, selection, components)}


def statistics(
    slot: NDArray[np.float64],
    labels: Sequence[Label],
    fidelity_names: Sequence[str],
    selection: Selection,
    loss: LossTerms = NO_TERMS,
) -> dict[str, float]:
    """Compute the metrics of one slot of `ErrorSums`, in source units.

    Names are ``loss``, ``loss_energy`` for a component of the loss, ``E_rmse``, ``F_mae``, ``q_r2``, ``E_atom_rmse``;
    metrics of one fidelity are prefixed with its name, as in ``fid0/E_rmse``. Metrics without a prefix are computed
    from the sums of all fidelities. Metrics without any counted component are absent; a counted error that is not
    finite makes its metrics non-finite. If all structures with a label were skipped, its metrics and the loss are NaN.

    The value of a component of the loss is its mean without the weight; ``loss`` is the weighted sum of these means.

    R² is 1 - SSE / SST with SST = Σt² - (Σt)²/n, from sums that can be added over batches. The difference cancels:
    1 - R² has a relative error of about 1e-16 · Σt²/SST, which is 1e-10 if the mean is a thousand times the spread.
    R² is absent with fewer than two values, or if the spread is below a millionth of the values, which rounding errors
    cannot distinguish from zero.

    Args:
        slot: float64 of shape (cells,), see `Layout`.
        labels: the labels.
        fidelity_names: one name per fidelity.
        selection: which metrics to compute.
        loss: the components of the loss.

    Raises:
        ValueError: the slot has a different number of cells than these arguments need.
    """
    layout = Layout(labels=tuple(labels), fidelities=len(fidelity_names), quantities=selection.quantities, loss=loss)
    if slot.shape != (layout.cells,):
        raise ValueError(
            f"the slot has shape {slot.shape}; {len(labels)} labels, {len(fidelity_names)} fidelities and"
            f" {len(loss.names)} loss components need ({layout.cells},)"
        )
    sums = slot[: layout.errors].reshape(layout.fidelities, layout.stride)
    # Overflow to infinity is a legitimate result.
    with np.errstate(over="ignore", invalid="ignore"):
        pooled = sums.sum(axis=0).tolist()
    others = _other_values(slot[layout.errors :].tolist(), pooled, layout)
    values = {}
    for metric in _cached_metrics(tuple(labels), tuple(fidelity_names), selection, loss.names):
        if metric.kind == "other":
            value = others[metric.name]
        else:
            row = pooled if metric.fidelity is None else sums[metric.fidelity].tolist()
            value = _value(metric, row, layout)
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
    labels: tuple[Label, ...], fidelity_names: tuple[str, ...], selection: Selection, components: tuple[str, ...]
) -> tuple[_Metric, ...]:
    """Return the metrics of `_metrics`, cached because computing them at each point would slow down training."""
    return tuple(_metrics(labels, fidelity_names, selection, components))


def _metrics(
    labels: Sequence[Label], fidelity_names: Sequence[str], selection: Selection, components: Sequence[str]
) -> Iterator[_Metric]:
    """Yield every metric of a selection; the single definition of which metrics exist and how they are named."""
    yield _Metric(name="loss", kind="other", info=MetricInfo(text="loss", better="lower"))
    if selection.loss_components:
        for name in components:
            info = MetricInfo(text=f"loss component {name}, not weighted", better="lower")
            yield _Metric(name=f"loss_{name}", kind="other", info=info)
    yield from _label_metrics(labels, selection, prefix="", suffix="", fidelity=None)
    if selection.per_fidelity and len(fidelity_names) > 1:
        for index, name in enumerate(fidelity_names):
            yield from _label_metrics(labels, selection, prefix=f"{name}/", suffix=f", {name}", fidelity=index)
    if selection.skipped is not None:
        info = MetricInfo(text=f"skipped {selection.skipped}")
        yield _Metric(name=f"skipped_{selection.skipped}", kind="other", info=info)


def _label_metrics(
    labels: Sequence[Label], selection: Selection, *, prefix: str, suffix: str, fidelity: int | None
) -> Iterator[_Metric]:
    for label in labels:
        for kind in selection.kinds:
            info = _info(label, kind, f"{KIND_TEXT[kind]} of {label.text}{suffix}")
            name = f"{prefix}{label.abbr}_{kind}"
            yield _Metric(name=name, kind=kind, info=info, label=label.name, fidelity=fidelity)
    for label in (label for label in labels if selection.energy_per_atom and label.name == "energy"):
        info = _info(label, "rmse", f"RMSE of {label.text} per atom{suffix}")
        info = replace(info, source_unit=f"{info.source_unit}/atom", unit=f"{info.unit}/atom")
        yield _Metric(
            name=f"{prefix}{label.abbr}_atom_rmse",
            kind="atom_rmse",
            info=info,
            label="energy",
            fidelity=fidelity,
        )


def _info(label: Label, kind: str, text: str) -> MetricInfo:
    if kind == "r2":
        return MetricInfo(text=text, better="higher")
    return MetricInfo(source_unit=label.source_unit, unit=label.unit, text=text, better="lower")


def _other_values(tail: list[float], pooled: list[float], layout: Layout) -> dict[str, float | None]:
    """Compute the loss, its components, and the skipped items from the cells after those of the fidelities."""
    terms, skipped = layout.terms, tail[-1]
    means = [_mean(*term) for term in zip(tail[:terms], tail[terms:-1], strict=True)]
    values = {f"loss_{name}": mean for name, mean in zip(layout.loss.names, means, strict=False)}
    loss = _weighted_sum(means, (*layout.loss.weights, 1.0))
    if any(_are_all_skipped(*sums) for sums in layout.by_label(pooled).values()):
        loss = math.nan
    return {"loss": loss, **values, "skipped_steps": skipped, "skipped_structures": skipped}


def _weighted_sum(means: list[float | None], weights: Sequence[float]) -> float | None:
    """Return the weighted sum of the means of whatever was counted; None if nothing with a weight was."""
    counted = [(weight, mean) for weight, mean in zip(weights, means, strict=True) if mean is not None]
    return sum(weight * mean for weight, mean in counted) if any(weight for weight, _ in counted) else None


def _value(metric: _Metric, row: list[float], layout: Layout) -> float | None:
    """Compute a metric from the sums of one or all fidelities; None if nothing was counted."""
    square, count, *others = layout.by_label(row)[metric.label]
    if _are_all_skipped(square, count, *others):
        return math.nan
    if metric.kind == "rmse":
        return _root_mean(square, count)
    if metric.kind == "atom_rmse":
        return _root_mean(row[-1], count)
    absolute, true, true_square, _ = others
    if metric.kind == "mae":
        return _mean(absolute, count)
    return _r_squared(square, true, true_square, count)


def _are_all_skipped(_square: float, count: float, *others: float) -> bool:
    """Return whether the label was counted only in skipped structures; the count of these is the last quantity."""
    return bool(others) and not count and others[-1] > 0


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def _root_mean(total: float, count: float) -> float | None:
    return math.sqrt(total / count) if count else None


def _r_squared(square: float, true: float, true_square: float, count: float) -> float | None:
    if count < 2:  # noqa: PLR2004 - a single value has no spread
        return None
    spread = true_square - true * (true / count)
    return 1.0 - square / spread if spread > SPREAD_LIMIT * true_square else None
