"""Units: checked and turned into factors once, when a run opens."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from telemetry.errors import MetricNotDeclared, UnitError

if TYPE_CHECKING:
    import pint

    from telemetry.metrics import Metric

Transform = Callable[[str, Mapping[str, float]], Mapping[str, float]]
"""A plain callable (stream, values by metric name) → values, run by the bus before the journal."""

NO_UNIT = {"1", ""}
"""Units that are not shown: there is none, or the run does not tell."""


def factors(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Give for each metric the factor from its source unit to its unit.

    The factors are pint's, from the CODATA constants that it carries: 1 eV/particle = 23.060547830619 kcal/mol. A
    metric that is declared per particle may be shown in a unit that leaves "per particle" out, as ``eV``.

    Raises:
        UnitError: a unit is unknown, or of another dimension.
    """
    seen: dict[tuple[str, str], float] = {}
    out: dict[str, float] = {}
    for name, metric in metrics.items():
        key = (metric.source_unit, metric.unit)
        if key not in seen:
            # Most of what is published has no unit to convert, and pint takes 0.5 s to load.
            seen[key] = 1.0 if key[0] == key[1] == "1" else _factor(name, *key)
        out[name] = seen[key]
    return out


def convert_by(factor: Mapping[str, float]) -> Transform:
    """Give the transform that multiplies each value by its metric's factor.

    The transform raises MetricNotDeclared for a metric that has none.
    """

    def transform(stream: str, values: Mapping[str, float]) -> Mapping[str, float]:
        try:
            # As float first: NumPy's float32 would stay one, and round the product.
            return {name: float(value) * factor[f"{stream}/{name}"] for name, value in values.items()}
        except KeyError as error:
            msg = f"metric {error} is not declared; give its unit in open_run(metrics={{{error}: Metric(unit=…)}})"
            raise MetricNotDeclared(msg) from error

    return transform


def with_unit(text: str, unit: str) -> str:
    """Add the unit in brackets, if there is one."""
    return text if unit in NO_UNIT else f"{text} [{unit}]"


def _factor(name: str, source: str, unit: str) -> float:
    import pint

    for text in (source, unit):
        _check(name, text)
    for target in (unit, f"({unit})/particle"):
        try:
            zero, one = (float(_registry().Quantity(x, source).to(target).magnitude) for x in (0.0, 1.0))
        except pint.DimensionalityError:
            continue
        except (ArithmeticError, ValueError, pint.PintError) as error:
            msg = f"{name} cannot be converted from {source!r} to {unit!r}: {error}"
            raise UnitError(msg) from error
        if zero or not one or not math.isfinite(one):
            msg = f"{name} cannot be converted from {source!r} to {unit!r} by a factor; choose units with one zero"
            raise UnitError(msg)
        return one
    msg = (
        f"{name} is in {source} and cannot be shown in {unit!r}: it has another dimension; choose a unit of the "
        "same one (what is shown per mol is declared per particle: eV/particle as kcal/mol)"
    )
    raise UnitError(msg)


def _check(name: str, text: str) -> None:
    cause: Exception | None = None
    try:
        _registry().parse_units(text)
    except Exception as error:  # noqa: BLE001 - pint raises many types here, its tokenizer's too; all mean the same
        cause = error
    # pint takes an empty text for no unit; here it is a unit that was left out.
    if cause is not None or not text.strip():
        why = f" ({cause})" if str(cause or "") else ""
        msg = f"{name}: {text!r} is no unit{why}; units are kcal/mol, eV, kcal/mol/Å, e …, and 1 where there is none"
        raise UnitError(msg) from cause


@functools.cache
def _registry() -> pint.UnitRegistry[float]:
    import pint

    return pint.UnitRegistry()
