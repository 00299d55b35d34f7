"""The numbers of structures in the data that their files were converted from."""

from collections.abc import Sequence

from aimnet2mult.data.file_format import FRAMES
from aimnet2mult.data.layout import open_file
from aimnet2mult.data.members import READ_ERRORS, Members, StoredArray, open_groups
from aimnet2mult.data.places import Places, Segment

__all__ = ["find_frames"]


def find_frames(places: Places, origins: Sequence[int], *, allow_external: bool) -> list[int | None]:
    """Return the number of each structure in the data that were converted; None if unknown.

    ``allow_external`` states whether the data may be in files that the data files link to.
    """
    found = [places.find(origin) for origin in origins]
    known: dict[tuple[str, str, int], int] = {}
    for path in dict.fromkeys(segment.path for segment, _ in found):
        with open_file(path) as file:
            groups, _ = open_groups(path, file, allow_external=allow_external)
            for segment, row in found:
                if segment.path == path and (frame := _frame(groups[segment.group], segment, row)) is not None:
                    known[str(path), segment.group, row] = frame
    return [known.get((str(segment.path), segment.group, row)) for segment, row in found]


def _frame(group: Members, segment: Segment, row: int) -> int | None:
    array = group.get(FRAMES)
    if not isinstance(array, StoredArray) or array.shape != (segment.rows,) or array.dtype.kind not in "iu":
        return None
    try:
        return int(array[row : row + 1][0])
    except READ_ERRORS:
        return None
