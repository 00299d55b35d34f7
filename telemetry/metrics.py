"""The declaration of a metric, and its full name: ``stream/name``, such as ``val/E_rmse``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Direction = Literal["lower", "higher"]
"""Which values of a metric are better."""
VALIDATION = "val"
"""The stream of the validation."""
SYSTEM = "system"
"""The stream of the load of processors, memory and GPUs, which says nothing about the training."""


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The declaration of a metric.

    Attributes:
        unit: the unit in which it is recorded and displayed; ``1`` if it has none.
        source_unit: the unit in which it is published, by default ``unit``.
        label: description of the quantity.
        better: ``lower`` or ``higher`` if such values are better; None if neither, or unknown.
        watch: whether it is a loss or an error that is expected to change steadily, so that a rise triggers an
            alert; it should be a mean over many batches, not the value of a single batch. If ``better`` is
            ``higher``, only non-finite and missing values trigger one.
        main: whether it is one of the few metrics that are shown first.
    """

    unit: Annotated[str, msgspec.Meta(max_length=100)] = "1"
    source_unit: Annotated[str, msgspec.Meta(max_length=100)] = ""
    label: Annotated[str, msgspec.Meta(max_length=250)] = ""
    better: Direction | None = None
    watch: bool = False
    main: bool = False

    def __post_init__(self) -> None:
        if not self.source_unit:
            msgspec.structs.force_setattr(self, "source_unit", self.unit)


def direction(name: str, metric: Metric) -> Direction | None:
    """Return whether lower or higher values of a metric are better; None if neither, or unknown.

    Metrics of version 0.1 do not declare this. They are recognized by the last part of their names: R² by ``…_r2``,
    losses and errors by ``loss``, ``loss_…``, ``…_loss``, ``…_rmse`` and ``…_mae``.
    """
    if metric.better is not None:
        return metric.better
    last = name.rpartition("/")[2]
    if last.endswith("_r2"):
        return "higher"
    is_error = last.startswith("loss_") or last.endswith(("_loss", "_rmse", "_mae"))
    return "lower" if metric.watch or last == "loss" or is_error else None


def stream_of(name: str) -> str:
    """Return the stream under which a metric is shown: the first part of its full name."""
    return name.partition("/")[0]


def possible_streams(name: str) -> list[str]:
    """Return the streams whose points may contain a metric: ``a`` and ``a/b`` for the full name ``a/b/x``."""
    parts = name.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


UNDECLARED = Metric(unit="")
"""Stands in for the declaration of a metric that the run does not declare; its unit is unknown."""
