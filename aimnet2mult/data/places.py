"""Places and numbers of structures, for messages."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Places", "Segment", "counted"]


class Segment(NamedTuple):
    """A group of a file, with the number of its rows."""

    path: Path
    group: str
    rows: int
    frames: npt.NDArray[np.int64] | None = None
    """Number of each structure in the data that the file was converted from, if known (rows,)."""

    def describe(self, row: int) -> str:
        """Return the place of a structure, such as ``a.h5, group 003, row 217 (frame 904)``; all count from 0."""
        origin = "" if self.frames is None else f" (frame {self.frames[row]})"
        return f"{self.path}, group {self.group}, row {row}{origin}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 structure`` or ``2,000 structures``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Places:
    """Consecutive numbers of the structures in all groups of all files.

    Args:
        segments: The groups, in the order of the numbers.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = tuple(segments)
        self._starts = np.cumsum([0, *(segment.rows for segment in segments)])

    def find(self, number: int) -> tuple[Segment, int]:
        """Return the segment and the row of a structure."""
        index = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._segments[index], int(number - self._starts[index])

    def describe(self, number: int) -> str:
        """Return the place of a structure as text."""
        segment, row = self.find(number)
        return segment.describe(row)
