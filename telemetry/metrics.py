"""The declaration of a metric."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The declaration of a metric.

    Attributes:
        unit: the unit in which it is recorded and displayed; ``1`` if it has none.
        source_unit: the unit in which it is published, by default ``unit``.
        label: description of the quantity.
        watch: whether it is a loss or an error that is expected to change steadily, so that a rise triggers an
            alert; it should be a mean over many batches, not the value of a single batch.
    """

    unit: Annotated[str, msgspec.Meta(max_length=100)] = "1"
    source_unit: Annotated[str, msgspec.Meta(max_length=100)] = ""
    label: Annotated[str, msgspec.Meta(max_length=250)] = ""
    watch: bool = False

    def __post_init__(self) -> None:
        if not self.source_unit:
            msgspec.structs.force_setattr(self, "source_unit", self.unit)


UNDECLARED = Metric(unit="")
"""Stands in for the declaration of a metric that the run does not declare; its unit is unknown."""
