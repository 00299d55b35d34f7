"""The points at which processes are killed."""

from __future__ import annotations

import random
from typing import Any

OF_TRAINER = [
    ("write", ("before", "torn", "after"), 60),
    ("sync", ("before", "after"), 60),
    ("rotate", ("before", "after"), 1),
    ("lease", ("before", "after"), 2),
    ("beat", ("before", "after"), 3),
]
OF_DELIVERY = [
    ("hook", ("before", "after"), 8),
    ("cursor", ("before", "after"), 12),
    ("lease", ("before", "after"), 2),
    ("backend", ("before", "after"), 60),
]
"""The fault points of each process: when, and up to which call."""


def at(role: str, points: list[Any], chance: random.Random, do: str = "kill", times: int = 1) -> dict[str, Any]:
    """Choose a fault point."""
    point, whens, calls = chance.choice(points)
    # As often one of the first calls as one of many.
    when, nth = chance.choice(whens), int(calls ** chance.random())
    return {"role": role, "point": point, "when": when, "nth": nth, "do": do, "times": times}
