"""Whole data files in memory, with total energies, for tests of what is read."""

from collections.abc import Iterable
from pathlib import Path

from aimnet2mult.data.data_files import (
    DataFile,
    build_dataset,
    check_or_raise,
    find_content,
    load_small,
    open_file_rows,
)
from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.report import SkippedRows
from aimnet2mult.quantities import Label

__all__ = ["read_fidelity"]


def read_fidelity(
    path: Path,
    *,
    labels: Iterable[Label],
    fidelity: int = 0,
    file_format: FileFormat | None = None,
    skipped: SkippedRows | None = None,
) -> DataSet:
    """Return the structures of a file, except for those to be skipped; by default, the file is checked."""
    wanted, file_format = tuple(labels), file_format or FileFormat()
    if skipped is None:
        check_or_raise([path], labels=wanted, file_format=file_format)
    content, without_bad = find_content(path, wanted, file_format, skipped or {})
    stores = open_file_rows(path, content, wanted, file_format)
    file = DataFile(path=path, fidelity=fidelity, content=content, without_bad=without_bad, stores=stores, start=0)
    (dataset,) = load_small([build_dataset([file.pieces(file.kept, None)], wanted)], float("inf"))
    return dataset
