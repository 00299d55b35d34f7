"""The quantities that a model can learn, with their shapes and units; users can declare more.

Data sets, loss, error sums and the units of the metrics all use these definitions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["INPUTS", "LABELS", "MASK_SUFFIX", "Label"]

INPUTS = ("coord", "numbers", "charge", "mult")
"""Arrays of data sets that models take as inputs."""

MASK_SUFFIX = "_mask"
"""Suffix of the key of a label's mask in a batch: which components count."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A quantity that a data set can contain and a model can predict.

    Its arrays have shape ``(B, N)`` if it is per atom, otherwise ``(B,)``, followed by ``(components,)`` if there are
    several.
    """

    name: str
    """Key in data sets and model outputs."""
    abbr: str
    """Abbreviation in the names of metrics, as in ``F_rmse``."""
    per_atom: bool
    """Whether there is a value for each atom instead of each structure."""
    components: int = 1
    """Number of values per atom or structure."""
    source_unit: str
    """Unit in data sets and models; energies are per particle, so that they can be converted to molar units."""
    unit: str
    """Default unit of the metrics."""
    text: str
    """Name in the titles of charts."""

    def shape(self, structures: int, atoms: int) -> tuple[int, ...]:
        """Return the shape of an array for a number of structures with a number of atoms each."""
        atom_axis = (atoms,) if self.per_atom else ()
        component_axis = (self.components,) if self.components > 1 else ()
        return (structures, *atom_axis, *component_axis)


_LABELS = (
    Label(
        name="energy",
        abbr="E",
        per_atom=False,
        source_unit="eV/particle",
        unit="kcal/mol",
        text="energy",
    ),
    Label(
        name="forces",
        abbr="F",
        per_atom=True,
        components=3,
        source_unit="eV/particle/angstrom",
        unit="kcal/mol/Å",
        text="forces",
    ),
    Label(name="charges", abbr="q", per_atom=True, source_unit="e", unit="e", text="atomic charges"),
    Label(
        name="spin_charges",
        abbr="s",
        per_atom=True,
        source_unit="e",
        unit="e",
        text="atomic spin charges",
    ),
    Label(
        name="dipole",
        abbr="mu",
        per_atom=False,
        components=3,
        source_unit="e·Å",
        unit="e·Å",
        text="dipole moment",
    ),
    Label(
        name="quadrupole",
        abbr="Q",
        per_atom=False,
        components=6,
        source_unit="e·Å²",
        unit="e·Å²",
        text="quadrupole moment",
    ),
)

LABELS: Mapping[str, Label] = MappingProxyType({label.name: label for label in _LABELS})
"""The built-in labels by name, in display order."""
