"""The metrics of each stream with their units. Does not import torch, because they are declared before it is loaded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aimnet2mult.metrics.statistics import BATCH, POOLED, VALIDATION, MetricInfo, Selection, metric_info
from aimnet2mult.quantities import Label

__all__ = ["STREAMS", "bare_name", "declare", "lr_metric", "weight_metric"]

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
    labels: Sequence[Label],
    fidelity_names: Sequence[str],
    units: Mapping[str, str],
    components: Sequence[str] = (),
    *,
    lr_groups: Sequence[str] = (),
    weighted: Sequence[str] = (),
) -> dict[str, MetricInfo]:
    """Return a description of every metric, keyed by its full name, ``stream/metric``.

    Args:
        labels: the labels.
        fidelity_names: one name per fidelity.
        units: display unit by label; by default `Label.unit`.
        components: names of the components of the loss.
        lr_groups: names of the parameter groups whose learning rate may differ from the main one.
        weighted: names of the components of the loss if their weights change.
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
    metrics |= {f"train/{lr_metric(name)}": MetricInfo(text=f"learning rate of {name}") for name in lr_groups}
    metrics |= {f"train/{weight_metric(name)}": MetricInfo(text=f"weight of {name} in the loss") for name in weighted}
    return metrics


def bare_name(metric: str) -> str:
    """Return the name of a validation metric, as a setting gives it, without the prefix ``val/`` or ``val_``."""
    return metric.removeprefix("val/").removeprefix("val_")


def lr_metric(group: str) -> str:
    """Return the name of the learning rate of a parameter group, which may have any name."""
    return "lr_" + re.sub(r"[^\w.-]+", "_", group)


def weight_metric(component: str) -> str:
    """Return the name of the weight of a component of the loss."""
    return f"weight_{component}"


def _abbreviation(name: str) -> str:
    return name.rpartition("/")[2].partition("_")[0]


def _with_display_unit(info: MetricInfo, unit: str) -> MetricInfo:
    # R² is dimensionless.
    if info.source_unit == "1":
        return info
    return replace(info, unit=f"{unit}/atom" if info.source_unit.endswith("/atom") else unit)
