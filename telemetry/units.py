"""Units: checked and turned into factors once, when a run opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from telemetry.errors import MetricNotDeclared, UnitError

if TYPE_CHECKING:
    from telemetry.records import Metric

Transform = Callable[[str, Mapping[str, float]], Mapping[str, float]]
"""A plain callable (stream, values by metric name) → values, run by the bus before the journal."""


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
            return {name: value * factor[f"{stream}/{name}"] for name, value in values.items()}
        except KeyError as error:
            msg = f"metric {error} is not declared; give its unit in open_run(metrics={{{error}: Metric(unit=…)}})"
            raise MetricNotDeclared(msg) from error

    return transform


def _factor(name: str, source: str, unit: str) -> float:
    import pint

    registry: pint.UnitRegistry[float] = pint.UnitRegistry()
    for text in (source, unit):
        try:
            registry.parse_units(text)
        except Exception as error:
            # pint raises many types here, those of its tokenizer among them; all mean the same.
            msg = f"{name}: {text!r} is no unit ({error}); for example kcal/mol, eV, kcal/mol/Å, e"
            raise UnitError(msg) from error
    quantity = registry.Quantity(1.0, source)
    for target in (unit, f"({unit})/particle"):
        try:
            return float(quantity.to(target).magnitude)
        except pint.DimensionalityError:
            continue
    msg = f"{name} is in {source} and cannot be shown in {unit!r}: it has another dimension"
    raise UnitError(msg)
