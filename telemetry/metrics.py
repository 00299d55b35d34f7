"""What a metric is: its units and what it measures."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a metric is: the unit it is shown in, the unit it is published in, and what it measures.

    ``watch``: it is an error, or a loss, of which a steady course is expected, so that a rise is told as an alert. The
    mean over many batches is one, a single batch's is not.
    """

    unit: Annotated[str, msgspec.Meta(max_length=100)] = "1"
    source_unit: Annotated[str, msgspec.Meta(max_length=100)] = "1"
    label: Annotated[str, msgspec.Meta(max_length=250)] = ""
    watch: bool = False


UNDECLARED = Metric(unit="")
"""What is known of a metric that stands in a journal and that its run does not declare."""
