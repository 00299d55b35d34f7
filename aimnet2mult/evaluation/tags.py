"""Tags: arrays of data files with one text or integer per structure, which are neither inputs nor labels."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aimnet2mult.data.file_format import FRAMES, OPTIONAL_INPUTS, REQUIRED_INPUTS, FileFormat
from aimnet2mult.data.layout import open_file
from aimnet2mult.data.members import HDF5_ERRORS, open_members
from aimnet2mult.data.places import Places
from aimnet2mult.quantities import LABELS

__all__ = ["read_tags"]

MAX_VALUES = 20
"""Maximum number of values of a tag that nobody has asked for; an array with more, such as an ID, is not a tag."""
MISSING = "(none)"
"""Value of structures in a file without the tag."""

Array = npt.NDArray[Any]


def read_tags(
    places: Places, evaluated: npt.NDArray[np.bool_], file_format: FileFormat, *, wanted: Sequence[str] = ()
) -> dict[str, Array]:
    """Return the tags as arrays of text, by origin, (total,).

    Args:
        places: The places of all structures.
        evaluated: Which structures count, by origin.
        file_format: Names of the arrays that are not tags.
        wanted: Names of tags that may have any number of values; all others have up to ``MAX_VALUES``.
    """
    reader = _Reader(len(evaluated), wanted)
    excluded = {FRAMES, *map(file_format.name, (*REQUIRED_INPUTS, *OPTIONAL_INPUTS, *LABELS))}
    segments = zip(places.segments, places.starts, strict=False)
    for path, parts in groupby(segments, key=lambda part: part[0].path):
        with open_file(path) as file:
            groups = open_members(str(path), file, allow_external=file_format.allow_external)
            for segment, start in parts:
                rows = slice(start, start + segment.rows)
                group = groups[segment.group]
                if not evaluated[rows].any() or not isinstance(group, h5py.Group):
                    continue
                members = open_members(segment.group, group, allow_external=file_format.allow_external)
                for name, array in members.items():
                    if name not in excluded and isinstance(array, h5py.Dataset):
                        reader.read(name, array, rows, evaluated[rows])
    return reader.tags


class _Reader:
    """Reads tags, and gives up those with too many values."""

    def __init__(self, total: int, wanted: Sequence[str]) -> None:
        self.tags: dict[str, Array] = {}
        self._total = total
        self._wanted = wanted
        self._given_up: set[str] = set()
        self._values: dict[str, set[str]] = {}

    def read(self, name: str, array: h5py.Dataset, rows: slice, evaluated: npt.NDArray[np.bool_]) -> None:
        """Read an array of a group, whose structures have the origins ``rows``."""
        if name in self._given_up or not _is_tag(array, len(evaluated)):
            return
        try:
            values = _as_texts(array)
        except HDF5_ERRORS:
            self._give_up(name)
            return
        known = self._values.setdefault(name, set())
        known |= set(values[evaluated].tolist())
        if len(known) > MAX_VALUES and name not in self._wanted:
            self._give_up(name)
            return
        self.tags.setdefault(name, np.full(self._total, MISSING, object))[rows] = values

    def _give_up(self, name: str) -> None:
        self._given_up.add(name)
        self.tags.pop(name, None)


def _is_tag(array: h5py.Dataset, rows: int) -> bool:
    is_text = h5py.check_string_dtype(array.dtype) is not None
    return array.shape == (rows,) and (is_text or array.dtype.kind in "biu")


def _as_texts(array: h5py.Dataset) -> Array:
    if h5py.check_string_dtype(array.dtype) is not None:
        texts: Array = np.asarray(array.asstr(errors="replace")[:], object)
        return texts
    numbers: Array = array[:].astype(str).astype(object)
    return numbers
