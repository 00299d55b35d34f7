"""Settings of anomaly detection."""

from __future__ import annotations

from typing import Annotated

import msgspec

DEFAULT_FACTOR = 8.0
"""Deviations above the median; values over batches of molecules have long tails."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an alert is raised.

    Attributes:
        factor: a value is a spike if it lies this many deviations above the median of the recent points, on a
            logarithmic scale.
        patience: points in a row above that limit before a spike is reported.
        history: number of recent points that the median is computed over.
        stalled: minimum time in seconds without a point before training counts as stalled.
    """

    factor: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = DEFAULT_FACTOR
    patience: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    history: Annotated[int, msgspec.Meta(ge=20, le=10_000)] = 50
    stalled: Seconds = 300.0
