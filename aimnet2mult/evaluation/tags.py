"""Tags: arrays of data files with one text or integer per structure, which are neither inputs nor labels."""

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aimnet2mult.data.file_format import FRAMES, OPTIONAL_INPUTS, REQUIRED_INPUTS, FileFormat
from aimnet2mult.data.layout import open_file
from aimnet2mult.data.members import READ_ERRORS, StoredArray, open_groups
from aimnet2mult.data.places import Places
from aimnet2mult.quantities import LABELS

__all__ = ["read_tags"]

MAX_VALUES = 20
"""Maximum number of values of a tag that nobody has asked for; an array with more, such as an ID, is not a tag."""
MISSING = "(none)"
"""Value of structures in a file without the tag."""

Array = npt.NDArray[Any]


def read_tags(
    places: Places,
    evaluated: npt.NDArray[np.bool_],
    file_format: FileFormat,
    *,
    reserved: Collection[str] = (),
    wanted: Sequence[str] = (),
) -> dict[str, Array]:
    """Return the tags as arrays of text, by origin, (total,).

    Args:
        places: The places of all structures.
        evaluated: Which structures count, by origin.
        file_format: Names of the arrays that are not tags.
        reserved: Names of other groupings; arrays of these names are not tags.
        wanted: Names of tags that may have any number of values; all others have up to ``MAX_VALUES``.
    """
    reader = _Reader(len(evaluated), wanted)
    excluded = {FRAMES, *reserved, *map(file_format.name, (*REQUIRED_INPUTS, *OPTIONAL_INPUTS, *LABELS))}
    segments = zip(places.segments, places.starts, strict=False)
    for path, parts in groupby(segments, key=lambda part: part[0].path):
        with open_file(path) as file:
            groups, _ = open_groups(path, file, allow_external=file_format.allow_external)
            for segment, start in parts:
                rows = slice(start, start + segment.rows)
                if not evaluated[rows].any():
                    continue
                for name, array in groups[segment.group].items():
                    if name not in excluded and isinstance(array, StoredArray):
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

    def read(self, name: str, array: StoredArray, rows: slice, evaluated: npt.NDArray[np.bool_]) -> None:
        """Read an array of a group, whose structures have the origins ``rows``."""
        if name in self._given_up or not _is_tag(array, len(evaluated)):
            return
        try:
            values = _as_texts(array)
        except READ_ERRORS:
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


def _is_tag(array: StoredArray, rows: int) -> bool:
    return array.shape == (rows,) and (_is_text(array) or array.dtype.kind in "biu")


def _is_text(array: StoredArray) -> bool:
    return h5py.check_string_dtype(array.dtype) is not None or array.dtype.kind == "U"


def _as_texts(array: StoredArray) -> Array:
    values = array[:]
    if _is_text(array):
        texts = [text.decode(errors="replace") if isinstance(text, bytes) else text for text in values.tolist()]
        return np.array(texts, object)
    numbers: Array = values.astype(str).astype(object)
    return numbers
