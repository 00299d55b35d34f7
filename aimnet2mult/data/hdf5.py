"""Reading of HDF5 files into data sets.

A group contains ``coord`` (B, N, 3) in Å, ``numbers`` (B, N), and optionally ``charge`` (B,) in e, ``mult`` (B,) and
labels. ``numbers`` is 0 for padding.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from aimnet.data import DataGroup, SizeGroupedDataset

from aimnet2mult.data.checks import check_files
from aimnet2mult.data.file_format import OPTIONAL_INPUTS, FileFormat, array_type
from aimnet2mult.data.labels import is_infinite
from aimnet2mult.data.layout import SizeGroup, open_file, read_layout, read_rows
from aimnet2mult.data.places import Segment
from aimnet2mult.data.report import SkippedRows
from aimnet2mult.quantities import Label

__all__ = ["INPUTS", "check_or_raise", "read_fidelity", "read_segments"]

logger = logging.getLogger(__name__)

INPUTS = ("coord", "numbers", "charge", "mult", "fidelity")
"""Keys of a batch that are passed to the model."""


def read_fidelity(
    path: Path,
    *,
    labels: Iterable[Label],
    fidelity: int = 0,
    file_format: FileFormat | None = None,
    skipped: SkippedRows | None = None,
) -> SizeGroupedDataset:
    """Read a file into a data set with all of ``INPUTS`` and ``labels`` in every group, and the array ``origin``.

    If the file lacks them, ``charge`` is 0, ``mult`` is 1, and labels are NaN. ``coord``, ``charge``, ``mult`` and the
    labels are float32, except for ``energy``, which is float64; ``numbers`` is int32, and ``fidelity`` (B,) and
    ``origin`` (B,) are int64. ``origin`` counts the structures of the file, including skipped ones. Infinite labels
    become NaN.

    Args:
        path: The file.
        labels: Labels to read.
        fidelity: Value of the array ``fidelity``.
        file_format: Names and units of the arrays.
        skipped: Rows to leave out, if the file has been checked; by default, it is checked here.

    Raises:
        DataError: The file cannot be used; the message has the path and the location in the file.
    """
    wanted, file_format = tuple(labels), file_format or FileFormat()
    if skipped is None:
        skipped = check_or_raise([path], labels=wanted, file_format=file_format)
    dataset = SizeGroupedDataset()
    with open_file(path) as file:
        first = 0
        for group in read_layout(path, file, wanted, file_format).groups:
            keep = np.delete(np.arange(group.rows), skipped.get((str(path), group.name), ()))
            arrays = _read_group(group, wanted, keep, file_format)
            arrays["fidelity"] = np.full(len(keep), fidelity, np.int64)
            arrays["origin"] = first + keep
            dataset[group.atoms] = DataGroup(arrays)
            first += group.rows
    return dataset


def read_segments(path: Path, file_format: FileFormat | None = None) -> list[Segment]:
    """Return the groups of a file, in the order in which ``origin`` counts their structures."""
    with open_file(path) as file:
        groups = read_layout(path, file, (), file_format or FileFormat()).groups
        return [Segment(path, group.name, group.rows) for group in groups]


def check_or_raise(
    files: Sequence[Path], val_files: Iterable[Path] = (), *, labels: Sequence[Label], **options: Any
) -> SkippedRows:
    """Check files that have not been checked before, log warnings, and return no rows to skip.

    Raises:
        DataError: There are problems.
    """
    report = check_files(files, val_files, labels=labels, **options)
    for line in report.warnings.lines():
        logger.warning("%s", line)
    report.raise_errors()
    return {}


def _read_group(
    group: SizeGroup, labels: Sequence[Label], keep: npt.NDArray[np.int64], file_format: FileFormat
) -> dict[str, npt.NDArray[Any]]:
    """Read the rows to keep of all inputs and labels, in the types of a batch, with defaults for missing ones."""
    shapes = {"coord": (len(keep), group.atoms, 3), "numbers": (len(keep), group.atoms)}
    shapes |= dict.fromkeys(OPTIONAL_INPUTS, (len(keep),))
    names = {label.name for label in labels}
    shapes |= {label.name: label.shape(len(keep), group.atoms) for label in labels}
    arrays = {}
    for key, shape in shapes.items():
        array = np.full(shape, OPTIONAL_INPUTS.get(key, np.nan) if key != "numbers" else 0, array_type(key))
        if key in group.arrays:
            for rows in group.blocks():
                first, end = np.searchsorted(keep, (rows.start, rows.stop))
                stored = read_rows(group, key, rows, file_format)[keep[first:end] - rows.start]
                values = file_format.convert(key, stored)
                if key in names:
                    values = np.where(is_infinite(values), np.nan, values)
                array[first:end] = values
        arrays[key] = array
    return arrays
