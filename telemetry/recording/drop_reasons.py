"""Why a value or a point is not recorded."""

from __future__ import annotations

from typing import Literal

DropReason = Literal[
    "not a number",
    "invalid name",
    "too many names",
    "invalid step",
    "invalid alert",
    "invalid parameters",
    "invalid content",
    "no values",
    "line too long",
    "too many blobs",
    "not written",
    "queue full",
    "run closed",
    "already recorded",
]
"""Reasons of ``Counts.dropped``. The first three concern single values, the others whole points. A point whose stream
already has one at this step is not a loss, and not counted as offered."""
