"""Places and numbers of structures, for messages."""

from bisect import bisect_right
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
    """Number of each structure in the data that the file was converted from, if known (rows,); -1 if not."""

    def describe(self, row: int) -> str:
        """Return the place of a structure, such as ``a.h5, group 003, row 217 (frame 904)``; all count from 0."""
        origin = "" if self.frames is None or self.frames[row] < 0 else f" (frame {self.frames[row]})"
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
        self.segments = tuple(segments)
        self.starts: tuple[int, ...] = tuple(np.cumsum([0, *(segment.rows for segment in segments)]).tolist())
        """The number of the first structure of each segment, followed by the number of structures."""

    @property
    def total(self) -> int:
        """Number of structures."""
        return self.starts[-1]

    def find(self, number: int) -> tuple[Segment, int]:
        """Return the segment and the row of a structure."""
        index = bisect_right(self.starts, number) - 1
        return self.segments[index], int(number - self.starts[index])

    def describe(self, number: int) -> str:
        """Return the place of a structure as text."""
        segment, row = self.find(number)
        return segment.describe(row)
