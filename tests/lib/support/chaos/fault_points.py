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
"""The fault points of each process: name, moments, and the last call at which the fault may happen."""


def at(role: str, points: list[Any], chance: random.Random, do: str = "kill", times: int = 1) -> dict[str, Any]:
    """Return a fault at a random point."""
    point, whens, calls = chance.choice(points)
    # Log-uniform: the first calls are as likely as many later ones together.
    when, nth = chance.choice(whens), int(calls ** chance.random())
    return {"role": role, "point": point, "when": when, "nth": nth, "do": do, "times": times}
