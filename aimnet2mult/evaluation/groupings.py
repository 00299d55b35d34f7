"""Groups of structures with separate errors: by fidelity, size, charge, multiplicity, or a tag in the files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.places import Places
from aimnet2mult.errors import ConfigError
from aimnet2mult.evaluation.tags import read_tags
from telemetry.errors import did_you_mean

__all__ = ["ELEMENT", "FIDELITY", "Grouping", "Groupings", "find_groupings"]

FIDELITY, ELEMENT = "fidelity", "element"
INPUTS = ("charge", "mult")
BUILT_IN = (FIDELITY, ELEMENT, "size", *INPUTS)
MAX_GROUPS = 20
"""Maximum number of groups of a grouping that nobody has asked for."""
MAX_SIZES = 12
"""Maximum number of groups by size; with more sizes, each group is a range of sizes."""

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouping:
    """A division of the structures into groups."""

    name: str
    groups: tuple[str, ...]
    """Names of the groups."""
    codes: Codes
    """Index of the group of each structure by origin; 0 for structures that are not evaluated."""


@dataclass(frozen=True, kw_only=True)
class Groupings:
    """The groupings of an evaluation."""

    elements: tuple[int, ...]
    """Atomic numbers; none if errors by element are not wanted."""
    others: tuple[Grouping, ...]
    """All groupings except that of the atoms by element."""


def find_groupings(
    datasets: Sequence[DataSet],
    places: Places,
    file_format: FileFormat,
    fidelity_names: Sequence[str],
    by: Sequence[str] = (),
) -> Groupings:
    """Return the groupings of structures.

    Args:
        datasets: The structures, with their ``origin``.
        places: Where they come from.
        file_format: Names of the arrays in the files, which are not tags.
        fidelity_names: Names of the fidelities.
        by: Names of the groupings; by default, all with 2 to ``MAX_GROUPS`` groups.

    Raises:
        ConfigError: There is no grouping of a given name.
    """
    columns = {key: np.zeros(places.total) for key in (FIDELITY, *INPUTS)}
    evaluated, sizes = np.zeros(places.total, np.bool_), np.zeros(places.total, np.int64)
    elements: set[int] = set()
    for dataset in datasets:
        for block in dataset.blocks([*columns, "numbers", "origin"]):
            evaluated[block["origin"]] = True
            sizes[block["origin"]] = np.count_nonzero(block["numbers"], axis=1)
            elements |= {*np.unique(block["numbers"]).tolist()} - {0}
            for key, values in columns.items():
                values[block["origin"]] = block[key]
    fidelities = np.array(fidelity_names, object)[columns[FIDELITY].astype(np.int64)]
    found = [_grouping(FIDELITY, fidelities, evaluated), _by_size(sizes)]
    found += [_grouping(key, columns[key], evaluated) for key in INPUTS]
    wanted = [name for name in by if name not in BUILT_IN]
    tags = read_tags(places, evaluated, file_format, reserved=BUILT_IN, wanted=wanted)
    found += [_grouping(name, values, evaluated) for name, values in tags.items()]
    known = [ELEMENT, *(grouping.name for grouping in found)]
    if unknown := [name for name in by if name not in known]:
        hint = did_you_mean(unknown[0], known)
        raise ConfigError(f"--by: the structures have no {', '.join(unknown)}, only {', '.join(known)}{hint}")
    return Groupings(
        elements=tuple(sorted(elements)) if not by or ELEMENT in by else (),
        others=tuple(each for each in found if (each.name in by if by else 1 < len(each.groups) <= MAX_GROUPS)),
    )


def _grouping(name: str, values: npt.NDArray[Any], evaluated: npt.NDArray[np.bool_]) -> Grouping:
    """Return the grouping by the values of each structure, (total,)."""
    unique, inverse = np.unique(values[evaluated], return_inverse=True)
    codes = np.zeros(len(values), np.int64)
    codes[evaluated] = inverse
    return Grouping(name=name, groups=tuple(map(_as_text, unique.tolist())), codes=codes)


def _as_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_size(sizes: Codes) -> Grouping:
    """Group by the number of atoms, in ranges with about equal numbers of structures if there are many."""
    evaluated = np.sort(sizes[sizes > 0])
    unique = np.unique(evaluated)
    starts = unique
    if len(unique) > MAX_SIZES:
        starts = np.unique(evaluated[np.arange(MAX_SIZES) * len(evaluated) // MAX_SIZES])
    parts = np.split(unique, np.searchsorted(unique, starts[1:]))
    names = [str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts]
    codes = np.maximum(np.searchsorted(starts, sizes, side="right") - 1, 0)
    return Grouping(name="size", groups=tuple(names), codes=codes.astype(np.int64))
