"""The units of the arrays in HDF5 files (``data.units``)."""

from collections.abc import Mapping

from aimnet2mult.errors import ConfigError
from aimnet2mult.quantities import LABELS, Label

__all__ = ["DEFAULT_UNITS", "convertible", "data_unit_factors", "default_unit"]

DEFAULT_UNITS: Mapping[str, str] = {"energy": "eV", "forces": "eV/Å", "coord": "Å"}
"""Units of the training, in which files are read unless ``data.units`` says otherwise."""

MAX_FACTOR = 1e20
"""Upper bound of the factor of a label, and of its reciprocal; J has 6e18, kcal instead of kcal/mol 3e22."""


def convertible(labels: Mapping[str, Label]) -> tuple[str, ...]:
    """Return the names of the arrays whose unit can be given."""
    return ("coord", *labels)


def default_unit(key: str, labels: Mapping[str, Label] = LABELS) -> str:
    """Return the unit of the training of an array, as it is written in settings."""
    return DEFAULT_UNITS.get(key) or labels[key].source_unit


def data_unit_factors(
    units: Mapping[str, str], setting: str = "data.units.", labels: Mapping[str, Label] = LABELS
) -> dict[str, float]:
    """Return the factors to the units of the training, by array; those without a conversion are left out.

    Args:
        units: Units by array.
        setting: What precedes the name of the array in messages.
        labels: All labels by name.

    Raises:
        ConfigError: A unit is unknown or has another dimension.
    """
    return {
        key: _factor(key, unit, setting + key, labels)
        for key, unit in units.items()
        if unit != default_unit(key, labels)
    }


def _factor(key: str, unit: str, setting: str, labels: Mapping[str, Label]) -> float:
    """Return the factor from a unit to the unit of the training; energies may be per particle or per mol."""
    # Importing pint takes 0.5 s.
    from telemetry.errors import UnitError
    from telemetry.units import conversion_factor

    target = labels[key].source_unit if key in labels else "angstrom"
    try:
        factor = conversion_factor(setting, unit, target)
    except UnitError as error:
        raise ConfigError(str(error)) from error
    if key in ("energy", "forces") and not 1 / MAX_FACTOR < factor < MAX_FACTOR:
        raise ConfigError(
            f"{setting}: 1 {unit} is {factor:.3g} {DEFAULT_UNITS[key]} per particle; write kcal/mol and kJ/mol "
            "with /mol, and Hartree, Ry and eV without"
        )
    return factor
