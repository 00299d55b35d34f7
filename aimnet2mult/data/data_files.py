"""Data files whose content is known, and the selection of their structures for data sets."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.checks import check_files
from aimnet2mult.data.content_scan import ContentScan
from aimnet2mult.data.dataset import DataSet, Piece, RowGroup
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_format import FileFormat, array_type
from aimnet2mult.data.file_rows import open_rows
from aimnet2mult.data.in_memory import read_into_memory
from aimnet2mult.data.labels import without_infinite
from aimnet2mult.data.layout import SizeGroup, open_file, read_layout, read_rows
from aimnet2mult.data.report import Report, SkippedRows
from aimnet2mult.data.row_store import RowStore
from aimnet2mult.data.sizes import GIGABYTE
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import INPUTS, Label

__all__ = [
    "DataFile",
    "OpenStores",
    "Pieces",
    "build_dataset",
    "check_or_raise",
    "find_content",
    "load_small",
    "open_file_rows",
]

logger = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]
Pieces = dict[int, list[Piece]]
"""Pieces of groups by number of atoms."""
OpenStores = Callable[[Path, FileContent, Sequence[Label], FileFormat], Sequence[RowStore]]
"""Function that returns a store for each group of a file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataFile:
    """A data file."""

    path: Path
    fidelity: int
    content: FileContent
    without_bad: bool
    """Whether bad structures are left out."""
    stores: Sequence[RowStore]
    """The groups of the file, in the order of the content."""
    start: int
    """Origin of the first structure."""

    @property
    def kept(self) -> Mask:
        """Which structures are not left out (rows,)."""
        return self.content.good if self.without_bad else np.ones(self.content.rows, np.bool_)

    def pieces(self, structures: Mask, references: Mapping[int, float] | None) -> Pieces:
        """Return some of the structures (rows,), less their reference energies."""
        pieces: Pieces = {}
        start = 0
        for store in self.stores:
            chosen = structures[start : start + store.rows]
            number = int(np.count_nonzero(chosen))
            if number:
                rows = range(store.rows) if number == store.rows else np.flatnonzero(chosen).astype(np.uint32)
                piece = Piece(
                    store=store, rows=rows, fidelity=self.fidelity, references=references, start=self.start + start
                )
                pieces[store.atoms] = [piece]
            start += store.rows
        return pieces


def build_dataset(
    parts: Iterable[Pieces], labels: Sequence[Label], *, min_size: int = 1, mode_atoms: bool = False
) -> DataSet:
    """Return the data set of the pieces of several files, one after the other in each group.

    Groups below a minimum size are merged with the next larger one, or the last ones with the one before, as aimnet's
    ``SizeGroupedDataset.merge_groups`` does.

    Args:
        parts: The pieces of each file.
        labels: Labels to read.
        min_size: Minimum size of a group.
        mode_atoms: Whether its unit is atoms, including padding, instead of structures.
    """
    joined: Pieces = {}
    for pieces in parts:
        for size, of_group in pieces.items():
            joined[size] = joined.get(size, []) + of_group
    merged: list[list[int]] = []
    pending: list[int] = []
    total = 0
    for size in sorted(joined):
        total += sum(map(len, joined[size])) * (size if mode_atoms else 1)
        pending.append(size)
        if total >= min_size:
            merged.append(pending)
            pending, total = [], 0
    if pending and merged:
        merged[-1] += pending
    elif pending:
        merged.append(pending)
    per_atom = frozenset(["coord", "numbers", *(label.name for label in labels if label.per_atom)])
    groups = {sizes[-1]: RowGroup([piece for size in sizes for piece in joined[size]], per_atom) for sizes in merged}
    return DataSet(groups, [*INPUTS, *(label.name for label in labels), "fidelity", "origin"])


def load_small(datasets: Sequence[DataSet], limit_gb: float) -> list[DataSet]:
    """Return data sets in memory if all of them together have up to a number of GB, else unchanged.

    Raises:
        DataError: A file cannot be read.
    """
    return (
        read_into_memory(datasets)
        if sum(dataset.nbytes for dataset in datasets) <= limit_gb * GIGABYTE
        else [*datasets]
    )


def find_content(
    path: Path, labels: Sequence[Label], file_format: FileFormat, skipped: SkippedRows, known: FileContent | None = None
) -> tuple[FileContent, bool]:
    """Return the content of a file, and whether its bad structures are left out: those to be skipped.

    The file is read, unless its content is known, with the same bad structures or none to be skipped.

    Raises:
        DataError: The file cannot be used.
    """
    of_file = {group: rows for (name, group), rows in skipped.items() if name == str(path) and len(rows)}
    if known is not None and (not of_file or _same_rows(known, of_file)):
        return known, bool(of_file)
    scan = ContentScan(labels)
    with open_file(path) as file:
        for group in read_layout(path, file, labels, file_format).groups:
            scan.start(group.name, group.atoms, group.rows)
            bad = np.isin(np.arange(group.rows), of_file.get(group.name, ()))
            for rows in group.blocks():
                scan.add(rows.start, _read_block(group, rows, labels, file_format), bad[rows])
    return scan.finish(), bool(of_file)


def _same_rows(content: FileContent, skipped: Mapping[str, npt.NDArray[np.int64]]) -> bool:
    rows = [
        of_group.start + np.sort(skipped[group.name]) for group, of_group in content.slices() if group.name in skipped
    ]
    return np.array_equal(np.concatenate(rows), content.bad) if rows else not len(content.bad)


def _read_block(
    group: SizeGroup, rows: slice, labels: Sequence[Label], file_format: FileFormat
) -> dict[str, npt.NDArray[Any]]:
    """Read rows of all inputs and labels in the file, in the types of a batch."""
    names = {label.name for label in labels}
    block = {}
    for key in group.arrays:
        values = file_format.convert(key, read_rows(group, key, rows, file_format))
        block[key] = (without_infinite(values) if key in names else values).astype(array_type(key), copy=False)
    return block


def open_file_rows(
    path: Path, content: FileContent, labels: Sequence[Label], file_format: FileFormat
) -> Sequence[RowStore]:
    """Return the groups of a file, read from the file itself; see `OpenStores`.

    Raises:
        DataError: The file cannot be used, or has changed since its content was found.
    """
    stores = open_rows(path, labels, file_format)
    if [(store.atoms, store.rows) for store in stores] != [(group.atoms, group.rows) for group in content.groups]:
        raise DataError(f"{path} has been changed while the run was starting; start again")
    return stores


def check_or_raise(
    files: Sequence[Path], val_files: Iterable[Path] = (), *, labels: Sequence[Label], **options: Any
) -> Report:
    """Check files that have not been checked before, and log warnings; no rows are to be skipped.

    Raises:
        DataError: There are problems.
    """
    report = check_files(files, val_files, labels=labels, **options)
    for line in report.warnings.lines():
        logger.warning("%s", line)
    report.raise_errors()
    return report
