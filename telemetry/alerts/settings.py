"""When an alert is due."""

from __future__ import annotations

from typing import Annotated

import msgspec

FACTOR = 8.0
"""A spike is so many deviations above the median. Medians and deviations of batches of molecules have long tails."""
HALF = 10
"""Points on each side of which the medians are compared to see which way a metric goes."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an alert is due.

    Attributes:
        factor: a value is a spike from so many deviations above the median of the last points on.
        patience: for so many points in a row.
        history: points that the median is taken of.
        stalled: seconds without a point, at least, before training is said to stand still.
    """

    factor: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = FACTOR
    patience: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    history: Annotated[int, msgspec.Meta(ge=2 * HALF, le=10_000)] = 50
    stalled: Seconds = 300.0
