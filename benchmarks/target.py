"""One thing that is wanted of the package, and what was measured of it."""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """A row of the table of what is wanted."""

    what: str
    wanted: str
    measured: str
    met: bool


def at_most(what: str, wanted: float, measured: float, unit: str, note: str = "") -> Target:
    """Give the row of something that is to be small."""
    return Target(what, f"≤ {number(wanted)} {unit}".strip(), _said(measured, unit, note), measured <= wanted)


def at_least(what: str, wanted: float, measured: float, unit: str, note: str = "") -> Target:
    """Give the row of something that is to be large."""
    return Target(what, f"≥ {number(wanted)} {unit}".strip(), _said(measured, unit, note), measured >= wanted)


def number(value: float) -> str:
    """Write a number with three digits, or whole ones with commas."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _said(measured: float, unit: str, note: str) -> str:
    return f"{number(measured)} {unit}".strip() + (f" ({note})" if note else "")
