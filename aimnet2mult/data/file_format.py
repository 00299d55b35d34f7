"""The names of the arrays in HDF5 files, their units, and where they may be stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.config.data_units import data_unit_factors
from aimnet2mult.quantities import LABELS, Label

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config

__all__ = ["FRAMES", "OPTIONAL_INPUTS", "REQUIRED_INPUTS", "FileFormat", "array_type"]

REQUIRED_INPUTS = ("coord", "numbers")
"""Inputs that every group contains: coordinates in Å, and atomic numbers, 0 for padding."""

OPTIONAL_INPUTS: Mapping[str, float] = {"charge": 0.0, "mult": 1.0}
"""Inputs that a file may omit, with their defaults: total charge in e, and spin multiplicity."""

FRAMES = "frame"
"""Array with the number of each structure in the data that were converted, for messages; not trained on."""

TYPES = {"numbers": np.int32, FRAMES: np.int32, "energy": np.float64}
"""Types of arrays that are not float32: total energies need float64 until reference energies are subtracted."""


def array_type(key: str) -> np.dtype[Any]:
    """Return the type in which an input or label is read."""
    return np.dtype(TYPES.get(key, np.float32))


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """The names and units of the arrays in a file, by default those of the training, and where they may be stored."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Name in the file of each input or label with another name there (``data.keys``)."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Factor that converts an array to the unit of the training."""
    allow_external: bool = False
    """Whether links, virtual datasets and external storage may make HDF5 read other files (``data.allow_external``)."""

    @classmethod
    def from_settings(
        cls,
        keys: Mapping[str, str],
        units: Mapping[str, str],
        *,
        allow_external: bool = False,
        labels: Mapping[str, Label] = LABELS,
    ) -> "FileFormat":
        """Return the format that ``data.keys``, ``data.units`` and ``data.allow_external`` describe.

        ``labels`` contains all labels by name.

        Raises:
            ConfigError: A unit is unknown or has another dimension.
        """
        return cls(names=dict(keys), factors=data_unit_factors(units, labels=labels), allow_external=allow_external)

    @classmethod
    def from_config(cls, config: "Config") -> "FileFormat":
        """Return the format that the settings describe; see `from_settings`."""
        data = config.data
        return cls.from_settings(data.keys, data.units, allow_external=data.allow_external, labels=config.known_labels)

    def name(self, key: str) -> str:
        """Return the name of an input or label in the file."""
        return self.names.get(key, key)

    def convert(self, key: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array of the file in the unit of the training, float64 if it has to be converted."""
        factor = self.factors.get(key)
        return values if factor is None else values.astype(np.float64) * factor
