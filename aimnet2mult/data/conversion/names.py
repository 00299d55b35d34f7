"""The names of inputs and labels in files."""

from collections.abc import Collection, Iterable, Mapping
from functools import cache

from aimnet2mult.errors import DataError
from aimnet2mult.quantities import LABELS, Label
from telemetry.errors import did_you_mean

__all__ = ["NAMES", "Names"]

NAMES: Mapping[str, tuple[str, ...]] = {
    "coord": ("coord", "coords", "coordinates", "positions", "R"),
    "numbers": ("numbers", "atomic_numbers", "nuclear_charges", "Z", "z"),
    "charge": ("charge", "total_charge", "Q"),
    "mult": ("mult", "multiplicity", "spin_multiplicity"),
    "energy": ("energy", "REF_energy", "E"),
    "forces": ("forces", "force", "REF_forces", "F"),
    "charges": ("charges", "REF_charges", "atomic_charges", "partial_charges"),
    "spin_charges": ("spin_charges", "REF_spin_charges"),
    "dipole": ("dipole", "REF_dipole"),
    "quadrupole": ("quadrupole", "REF_quadrupole"),
}
"""Names that are recognized: those of ASE, AIMNet2, MACE (``REF_…``), MD17 and PhysNet.

``free_energy`` and ``magmoms`` of ASE are not: whether they are the wanted energy and spin charges depends on the
program that computed them.
"""


NONE = "none"
"""Given in place of the name of an input or label that is not to be read."""


class Names:
    """Finds the inputs and labels among the names in files.

    Args:
        given: Names given by the user, by input or label; they replace the recognized ones. ``none`` leaves it out.
        labels: All labels by name; one without recognized names has its own.
    """

    def __init__(self, given: Mapping[str, str], labels: Mapping[str, Label] = LABELS) -> None:
        self.labels = labels
        self._recognized = {**NAMES, **{name: (name,) for name in labels if name not in NAMES}}
        self.used: dict[str, dict[str, None]] = {}
        """Names that have been used by input or label, in the order of appearance."""
        self._given = dict(given)
        recognized = {name for key, names in self._recognized.items() for name in names if key not in given}
        self.wanted = recognized | {*given.values()}
        """All names that are looked for."""
        self.found: set[str] = set()
        """All names that have been found."""
        self._resolve = cache(self._resolve_new)

    def resolve(self, found: Iterable[str]) -> Mapping[str, str]:
        """Return the name of each input and label of a structure that is among its names.

        Raises:
            DataError: There are several names for one of them.
        """
        return self._resolve(tuple(found))

    def _resolve_new(self, found: tuple[str, ...]) -> Mapping[str, str]:
        self.found.update(found)
        resolved, unclear = {}, []
        for key, names in self._recognized.items():
            wanted = (self._given[key],) if key in self._given else set(names) - set(self._given.values())
            matches = [name for name in found if name in wanted]
            if matches:
                resolved[key] = matches[0]
                self.used.setdefault(key, {}).update(dict.fromkeys(matches))
            if len(matches) > 1:
                options = " or ".join(f"--key {key}={name}" for name in matches)
                unclear.append(f"the {key} may be {' or '.join(map(repr, matches))}; choose with {options}")
        if unclear:
            raise DataError("; ".join(unclear))
        return resolved

    @property
    def unused(self) -> list[str]:
        """Names that have been found and are not used."""
        return sorted(self.found.difference(*self.used.values()))

    def require(self, keys: Collection[str], found: Collection[str]) -> None:
        """Check that inputs are among those that have been found.

        Raises:
            DataError: Some are not; the message lists all names.
        """
        if missing := [key for key in keys if key not in found]:
            keys_text = " ".join(f"--key {key}=NAME" for key in missing)
            raise DataError(f"there is no {' and no '.join(missing)}; {self._list()}; give the name with {keys_text}")

    def problems(self) -> list[str]:
        """Return what is wrong after all structures have been read: a given name or all labels were in none of them."""
        lines = [
            f"--key {key}={name}: no structure has {name!r}; {self._list()}{did_you_mean(name, self.found)}"
            for key, name in self._given.items()
            if key not in self.used and name != NONE
        ]
        if not lines and not self.used.keys() & self.labels.keys():
            labels = " or ".join(self.labels)
            lines.append(f"no structure has {labels}; {self._list()}; give names, as in --key energy=NAME")
        return lines

    def _list(self) -> str:
        return f"found: {', '.join(sorted(self.found)) or 'nothing'}"
