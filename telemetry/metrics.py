"""The declaration of a metric."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


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
    better: Literal["lower", "higher"] | None = None
    watch: bool = False
    main: bool = False

    def __post_init__(self) -> None:
        if not self.source_unit:
            msgspec.structs.force_setattr(self, "source_unit", self.unit)


def is_better_when_higher(name: str, metric: Metric) -> bool:
    """Return whether higher values are better.

    If the declaration does not tell, as in runs of version 0.1, R² is recognized by its name, ``…_r2``; lower values of
    all other metrics count as better.
    """
    return metric.better == "higher" or (metric.better is None and name.endswith("_r2"))


UNDECLARED = Metric(unit="")
"""Stands in for the declaration of a metric that the run does not declare; its unit is unknown."""
