"""The units of the arrays in HDF5 files (``data.units``)."""

from collections.abc import Mapping

from aimnet2mult.errors import ConfigError
from aimnet2mult.quantities import LABELS

__all__ = ["DEFAULT_UNITS", "data_unit_factors"]

DEFAULT_UNITS: Mapping[str, str] = {"energy": "eV", "forces": "eV/Å", "coord": "Å"}
"""Units of the training, in which files are read unless ``data.units`` says otherwise."""

MAX_FACTOR = 1e20
"""Upper bound of the factor of a label, and of its reciprocal; J has 6e18, kcal instead of kcal/mol 3e22."""


def data_unit_factors(units: Mapping[str, str], setting: str = "data.units.") -> dict[str, float]:
    """Return the factors to the units of the training, by array; those without a conversion are left out.

    Args:
        units: Units by array.
        setting: What precedes the name of the array in messages.

    Raises:
        ConfigError: A unit is unknown or has another dimension.
    """
    return {key: _factor(key, unit, setting + key) for key, unit in units.items() if unit != DEFAULT_UNITS[key]}


def _factor(key: str, unit: str, setting: str) -> float:
    """Return the factor from a unit to the unit of the training; energies may be per particle or per mol."""
    # Importing pint takes 0.5 s.
    from telemetry.errors import UnitError
    from telemetry.units import conversion_factor

    target = LABELS[key].source_unit if key in LABELS else "angstrom"
    try:
        factor = conversion_factor(setting, unit, target)
    except UnitError as error:
        raise ConfigError(str(error)) from error
    if key in LABELS and not 1 / MAX_FACTOR < factor < MAX_FACTOR:
        raise ConfigError(
            f"{setting}: 1 {unit} is {factor:.3g} {DEFAULT_UNITS[key]} per particle; write kcal/mol and kJ/mol "
            "with /mol, and Hartree, Ry and eV without"
        )
    return factor
