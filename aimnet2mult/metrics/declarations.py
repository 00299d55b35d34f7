"""The metrics of each stream with their units. Does not import torch, because they are declared before it is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aimnet2mult.metrics.statistics import BATCH, POOLED, VALIDATION, MetricInfo, Selection, metric_info
from aimnet2mult.quantities import Label

__all__ = ["STREAMS", "declare"]

STREAMS: Mapping[str, Selection] = {
    "train": BATCH,
    "train_window": POOLED,
    "train_epoch": POOLED,
    "val": VALIDATION,
}
"""The error metrics of each stream."""

WATCHED = ("train_window", "train_epoch", "val")
"""Streams that are means over many batches; the errors of a single batch are too noisy to watch."""

_EPOCH = MetricInfo(text="epoch")
_OTHER_METRICS = {
    "train": {
        "lr": MetricInfo(text="learning rate"),
        "grad_norm": MetricInfo(text="norm of the gradient before clipping"),
        "it_per_s": MetricInfo(source_unit="1/s", unit="1/s", text="iterations per second"),
        "epoch": _EPOCH,
    },
    "train_epoch": {"epoch": _EPOCH},
    "val": {"epoch": _EPOCH},
}


def declare(
    labels: Sequence[Label], fidelity_names: Sequence[str], units: Mapping[str, str], components: Sequence[str] = ()
) -> dict[str, MetricInfo]:
    """Return a description of every metric, keyed by its full name, ``stream/metric``.

    Args:
        labels: the labels.
        fidelity_names: one name per fidelity.
        units: display unit by label; by default `Label.unit`.
        components: names of the components of the loss.
    """
    display_units = {label.abbr: units[label.name] for label in labels if label.name in units}
    main = {"loss", *(f"{label.abbr}_rmse" for label in labels)}
    metrics = {}
    for stream, selection in STREAMS.items():
        for name, info in metric_info(labels, fidelity_names, selection, components).items():
            unit = display_units.get(_abbreviation(name))
            in_unit = info if unit is None else _with_display_unit(info, unit)
            is_error = name == "loss" or name.endswith("_rmse")
            watch = is_error and stream in WATCHED
            metrics[f"{stream}/{name}"] = replace(in_unit, watch=watch, main=name in main)
        metrics |= {f"{stream}/{name}": info for name, info in _OTHER_METRICS.get(stream, {}).items()}
    return metrics


def _abbreviation(name: str) -> str:
    return name.rpartition("/")[2].partition("_")[0]


def _with_display_unit(info: MetricInfo, unit: str) -> MetricInfo:
    # R² is dimensionless.
    if info.source_unit == "1":
        return info
    return replace(info, unit=f"{unit}/atom" if info.source_unit.endswith("/atom") else unit)
