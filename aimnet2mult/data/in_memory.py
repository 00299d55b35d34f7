"""Reading of whole data sets into memory, in one pass over each file, without copies of the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aimnet2mult.data.dataset import ArrayGroup, Arrays, DataSet, Group, Piece, RowGroup
from aimnet2mult.data.row_store import RowStore

__all__ = ["read_into_memory"]


@dataclass(frozen=True)
class _Target:
    """A piece, and where its structures belong."""

    piece: Piece
    group: RowGroup
    arrays: Arrays
    first: int
    """Position of the first structure of the piece in the arrays."""

    def fill(self, start: int, stored: Arrays, keys: Sequence[str]) -> None:
        """Copy the structures of the piece that are in a block, whose first row is ``start``."""
        end = start + len(stored["numbers"])
        rows = self.piece.rows
        if isinstance(rows, range):
            low, high = (min(max(limit - rows.start, 0), len(rows)) for limit in (start, end))
            chosen = np.arange(rows.start + low, rows.start + high)
        else:
            low, high = np.searchsorted(rows, (start, end)).tolist()
            chosen = rows[low:high].astype(np.int64)
        if high > low:
            whole = len(chosen) == end - start
            own = stored if whole else {key: values[chosen - start] for key, values in stored.items()}
            position = slice(self.first + low, self.first + high)
            self.group.fill(self.arrays, position, self.piece.complete(chosen, keys, own))


def read_into_memory(datasets: Sequence[DataSet]) -> list[DataSet]:
    """Return data sets in memory; besides them, only blocks of rows are in memory.

    Args:
        datasets: Data sets with the same arrays, whose structures are read by index.

    Raises:
        DataError: A file cannot be read.
    """
    targets: dict[int, tuple[RowStore, list[_Target]]] = {}
    filled = [
        DataSet({size: _allocate(group, dataset.arrays, targets) for size, group in dataset.items()}, dataset.arrays)
        for dataset in datasets
    ]
    keys = next((dataset.arrays for dataset in datasets if dataset.arrays), ())
    for store, of_store in targets.values():
        needed = [*Piece.stored_keys(keys), *(["numbers"] if "numbers" not in keys else [])]
        for start in range(0, store.rows, store.block):
            stored = store.read(np.arange(start, min(start + store.block, store.rows)), needed)
            for target in of_store:
                target.fill(start, stored, keys)
    return filled


def _allocate(group: Group, keys: Sequence[str], targets: dict[int, tuple[RowStore, list[_Target]]]) -> Group:
    if not isinstance(group, RowGroup):
        return group
    like = group.pieces[0].read(np.arange(0), keys)
    arrays = group.empty(len(group), like)
    for piece, first in zip(group.pieces, group.starts.tolist(), strict=False):
        _, of_store = targets.setdefault(id(piece.store), (piece.store, []))
        of_store.append(_Target(piece, group, arrays, first))
    return ArrayGroup(arrays)
