"""Check iteration numbers given by callers."""

from __future__ import annotations

import operator
from typing import Any

from telemetry.records import MAX_STEP


def parse_step(value: object) -> int:
    """Return an iteration as an int: an integer of any library, or a number without a fraction, such as 5.0.

    Raises:
        ValueError: it is not an integer, or it is negative or too large.
    """
    step = value if type(value) is int else _integer(value)
    if not 0 <= step < MAX_STEP:
        msg = f"step {step} is not between 0 and {MAX_STEP - 1}"
        raise ValueError(msg)
    return step


def _integer(value: object) -> int:
    msg = f"step {value!r} is not an integer"
    try:
        # Arrays and tensors with one element, and their scalars.
        number: Any = value.item() if hasattr(value, "item") else value
        step = int(number) if isinstance(number, float) and number.is_integer() else operator.index(number)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(msg) from error
    if isinstance(number, bool):
        raise ValueError(msg)  # noqa: TRY004 - as for all other values
    return step
