"""Check units and turn them into factors, once, when a run is opened."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from telemetry.errors import UnitError, format_error

if TYPE_CHECKING:
    import pint

    from telemetry.metrics import Metric

NO_UNIT = {"1", ""}
"""Units that are not displayed: dimensionless, or unknown."""

ALIASES = {"hartree": ("Ha", "Hartree"), "bohr": ("Bohr",), "angstrom": ("Angstrom", "Ang"), "rydberg": ("Rydberg",)}
"""Spellings common in chemistry, by the name in pint, which is case-sensitive: ``ha`` is a hectare."""


EXAMPLES = ("kcal/mol", "eV", "Hartree", "kcal/mol/Å", "eV/Å", "Å", "bohr", "e")
"""Usual units of energies, forces, lengths and charges, for error messages."""


def factors(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Return the conversion factor of each metric from its source unit to its unit, keyed by full name.

    Raises:
        UnitError: a unit is unknown, or the two units of a metric differ in dimension.
    """
    seen: dict[tuple[str, str], float] = {}
    out: dict[str, float] = {}
    for name, metric in metrics.items():
        key = (metric.source_unit, metric.unit)
        if key not in seen:
            # Most metrics have no unit to convert, and importing pint takes 0.5 s.
            seen[key] = 1.0 if key[0] == key[1] == "1" else conversion_factor(name, *key)
        out[name] = seen[key]
    return out


def conversion_factor(name: str, source: str, unit: str) -> float:
    """Return the factor that converts a value from the unit ``source`` to ``unit``.

    The factor comes from pint and its CODATA constants: 1 eV/particle = 23.060547830619 kcal/mol. Either unit may omit
    "per particle": eV is the same as eV/particle.

    Args:
        name: metric or setting, for error messages.
        source: unit of the value, such as ``eV/particle``.
        unit: unit of the result, such as ``kcal/mol``.

    Raises:
        UnitError: a unit is unknown, or the two units differ in dimension or zero.
    """
    import pint

    for text, other in ((source, unit), (unit, source)):
        _check(name, text, other)
    for target in (unit, f"({unit})/particle", f"({unit})*particle"):
        try:
            zero, one = (float(_registry().Quantity(x, source).to(target).magnitude) for x in (0.0, 1.0))
        except pint.DimensionalityError:
            continue
        except Exception as error:
            # Of many types: numbers out of range, offset and logarithmic units, failed assertions.
            msg = f"{name}: cannot convert {source} to {unit!r}: {format_error(error)}"
            raise UnitError(msg) from error
        if zero or not one or not math.isfinite(one):
            msg = f"{name}: cannot convert {source} to {unit!r} by a factor; choose units with a common zero"
            raise UnitError(msg)
        return one
    msg = f"{name}: cannot convert {source} to {unit!r}, which has another dimension"
    raise UnitError(msg)


def with_unit(text: str, unit: str) -> str:
    """Return ``text`` followed by the unit in brackets, if there is one."""
    return text if unit in NO_UNIT else f"{text} [{unit}]"


def _check(name: str, text: str, other: str) -> None:
    """Check that a text is a unit; ``other`` is the one it is to be converted to or from."""
    cause: Exception | None = None
    try:
        _registry().parse_units(text)
    except Exception as error:  # noqa: BLE001 - pint raises many types here, including its tokenizer's; all mean the same
        cause = error
    # pint accepts an empty string as dimensionless; here it means that the unit was omitted.
    if cause is not None or not text.strip():
        why = f" ({cause})" if str(cause or "") else ""
        msg = f"{name}: {text!r} is not a unit{why}{_examples(other)}"
        raise UnitError(msg) from cause


def _examples(other: str) -> str:
    """Return a hint with the usual units of the dimension of ``other``; with all and 1 if none of them has it."""
    fitting = [unit for unit in EXAMPLES if _is_compatible(unit, other)]
    return f"; use a unit such as {', '.join(fitting)}" if fitting else f"; use {', '.join(EXAMPLES)} …, or 1 for none"


def _is_compatible(unit: str, other: str) -> bool:
    try:
        return any(
            _registry().Unit(form).is_compatible_with(other)
            for form in (unit, f"{unit}/particle", f"({unit})*particle")
        )
    except Exception:  # noqa: BLE001 - as in ``_check``
        return False


@functools.cache
def _registry() -> pint.UnitRegistry[float]:
    import pint

    registry: pint.UnitRegistry[float] = pint.UnitRegistry()
    # As in kcal/mol/atom; it counts the atoms of a molecule and is not an amount of substance.
    registry.define("atom = count")
    for unit, spellings in ALIASES.items():
        registry.define(f"@alias {unit} = {' = '.join(spellings)}")
    return registry
