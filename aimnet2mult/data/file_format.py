"""The names of the arrays in HDF5 files, and their units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.errors import ConfigError
from aimnet2mult.quantities import LABELS

__all__ = ["DEFAULT_UNITS", "OPTIONAL_INPUTS", "REQUIRED_INPUTS", "FileFormat"]

REQUIRED_INPUTS = ("coord", "numbers")
"""Inputs that every group contains: coordinates in Å, and atomic numbers, 0 for padding."""

OPTIONAL_INPUTS: Mapping[str, float] = {"charge": 0.0, "mult": 1.0}
"""Inputs that a file may omit, with their defaults: total charge in e, and spin multiplicity."""

DEFAULT_UNITS: Mapping[str, str] = {"energy": "eV", "forces": "eV/Å", "coord": "Å"}
"""Units of the training, in which files are read unless ``data.units`` says otherwise."""

MAX_FACTOR = 1e20
"""Upper bound of the factor of a label, and of its reciprocal; J has 6e18, kcal instead of kcal/mol 3e22."""


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """The names and units of the arrays in a file; by default, those of the training."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Name in the file of each input or label with another name there (``data.keys``)."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Factor that converts an array to the unit of the training."""

    @classmethod
    def from_settings(cls, keys: Mapping[str, str], units: Mapping[str, str]) -> "FileFormat":
        """Return the format that the settings ``data.keys`` and ``data.units`` describe.

        Raises:
            ConfigError: A unit is unknown or has another dimension.
        """
        other = {key: unit for key, unit in units.items() if unit != DEFAULT_UNITS[key]}
        return cls(names=dict(keys), factors={key: _factor(key, unit) for key, unit in other.items()})

    def name(self, key: str) -> str:
        """Return the name of an input or label in the file."""
        return self.names.get(key, key)

    def convert(self, key: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array of the file in the unit of the training, float64 if it has to be converted."""
        factor = self.factors.get(key)
        return values if factor is None else values.astype(np.float64) * factor


def _factor(key: str, unit: str) -> float:
    """Return the factor from a unit to the unit of the training; energies may be per particle or per mol."""
    from telemetry.errors import UnitError
    from telemetry.units import conversion_factor

    target = LABELS[key].source_unit if key in LABELS else "angstrom"
    try:
        factor = conversion_factor(f"data.units.{key}", unit, target)
    except UnitError as error:
        raise ConfigError(str(error)) from error
    if key in LABELS and not 1 / MAX_FACTOR < factor < MAX_FACTOR:
        raise ConfigError(
            f"data.units.{key}: 1 {unit} is {factor:.3g} {DEFAULT_UNITS[key]} per particle; write kcal/mol and kJ/mol "
            "with /mol, and Hartree, Ry and eV without"
        )
    return factor
