"""Performance targets and measured values."""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """A row of the table of targets."""

    quantity: str
    target: str
    measured: str
    met: bool


def at_most(quantity: str, limit: float, measured: float, unit: str, note: str = "") -> Target:
    """Return the row of a quantity with an upper limit."""
    return Target(quantity, f"≤ {format_number(limit)} {unit}".strip(), _text(measured, unit, note), measured <= limit)


def at_least(quantity: str, limit: float, measured: float, unit: str, note: str = "") -> Target:
    """Return the row of a quantity with a lower limit."""
    return Target(quantity, f"≥ {format_number(limit)} {unit}".strip(), _text(measured, unit, note), measured >= limit)


def format_number(value: float) -> str:
    """Return a number with three significant digits, or from 100 on as an integer with thousands separators."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _text(measured: float, unit: str, note: str) -> str:
    return f"{format_number(measured)} {unit}".strip() + (f" ({note})" if note else "")
