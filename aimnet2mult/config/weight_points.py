"""The weight of a component of the loss, as settings give it: a number, or points between which it is linear."""

import math

__all__ = ["EXPECTED_WEIGHT", "read_weight"]

EXPECTED_WEIGHT = "a finite number of at least 0, or pairs [iteration, weight] with increasing iterations"


def read_weight(value: object) -> tuple[tuple[int, float], ...] | None:
    """Return the points (iteration, weight) of a weight, one if it is constant; None if the value is invalid."""
    if _is_weight(value):
        return ((0, float(value)),)  # type: ignore[arg-type] # it is a number
    if not isinstance(value, list) or not value or not all(map(_is_point, value)):
        return None
    iterations = [iteration for iteration, _ in value]
    return tuple((i, float(weight)) for i, weight in value) if iterations == sorted(set(iterations)) else None


def _is_point(value: object) -> bool:
    match value:
        case [int() as iteration, weight]:
            return not isinstance(iteration, bool) and iteration >= 0 and _is_weight(weight)
    return False


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
