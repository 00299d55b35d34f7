"""The labels that can be learnt: their names, their shapes and their units.

Everything that has to agree on a label (what is read from a data set, what the loss compares,
what the error statistics are called and in which unit they are shown) takes it from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["LABELS", "Label"]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A quantity that a data set can hold and a model can predict.

    An array of it has the shape ``(B, N)`` with atoms and ``(B,)`` without, followed by
    ``(components,)`` where there are several. Data sets and models use ``source_unit``; people are
    shown ``unit``. Energies are per particle, so that they convert to molar units.
    """

    name: str
    """Key in data sets and model outputs."""
    abbr: str
    """Stands for the label in the names of metrics, as in ``F_rmse``."""
    per_atom: bool
    """Whether there is one for each atom, rather than one for each structure."""
    components: int = 1
    """Numbers for each atom or structure."""
    source_unit: str
    unit: str
    text: str
    """What a chart's title calls it."""

    def shape(self, structures: int, atoms: int) -> tuple[int, ...]:
        """Return the shape of this label's array for so many structures of so many atoms."""
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
)

LABELS: Mapping[str, Label] = MappingProxyType({label.name: label for label in _LABELS})
"""Every label by its name, in the order in which they are shown."""
