"""The split of data files into structures for training, validation and test, and the file that stores it."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from aimnet2mult.errors import DataError
from telemetry.errors import error_text
from telemetry.run_folder.atomic_write import atomic_write
from telemetry.run_folder.regular_file import open_regular

if TYPE_CHECKING:
    from aimnet2mult.data.file_content import FileContent

__all__ = ["LEFT_OUT", "FileSplit", "Part", "find_split", "read_split", "split_at_random", "write_split"]

LEFT_OUT = 255
"""In place of a `Part`, for bad structures that are left out."""
FORMAT = 1
MAX_BYTES = 2**31
"""Maximum size of all arrays in the file, at one byte per structure."""


class Part(IntEnum):
    """The part of the data to which a structure belongs."""

    TRAIN = 0
    VAL = 1
    TEST = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class FileSplit:
    """The split of one data file."""

    parts: npt.NDArray[np.uint8]
    """`Part` of each structure (rows,), in the order of the file, as ``origin`` counts them; or ``LEFT_OUT``."""
    checksum: int
    """CRC-32 of the inputs of all structures that are not left out."""

    @classmethod
    def all_training(cls, content: "FileContent", *, without_bad: bool) -> Self:
        """Return a split with all structures for training, except for bad ones if they are left out."""
        parts = np.full(content.rows, Part.TRAIN, np.uint8)
        if without_bad:
            parts[content.bad] = LEFT_OUT
        # Labels have no effect, so that runs with other labels can have the same split.
        return cls(parts=parts, checksum=content.input_checksum(without_bad=without_bad))

    def count(self, part: Part) -> int:
        """Return the number of structures in a part."""
        return int(np.count_nonzero(self.parts == part))


def split_at_random(
    content: "FileContent", whole: FileSplit, fractions: Mapping[Part, float], seed: Sequence[int]
) -> FileSplit:
    """Move fractions of the structures of each size group from training to validation and test.

    The test structures do not depend on the fraction for validation, and without a test set, the split is that of
    version 0.1.

    Args:
        content: The content of the file.
        whole: Its split with all structures for training; not modified.
        fractions: Fraction of the structures for validation and test, in total below 1.
        seed: Seed of the split.
    """
    parts = whole.parts.copy()
    # Views, through which the parts are changed.
    groups = {group.atoms: parts[rows] for group, rows in content.slices()}
    val, test = fractions[Part.VAL], fractions[Part.TEST]
    if test:
        _move(groups, Part.TEST, test, (*seed, Part.TEST))
    _move(groups, Part.VAL, val / (1 - test), seed)
    return FileSplit(parts=parts, checksum=whole.checksum)


def _move(groups: Mapping[int, npt.NDArray[np.uint8]], part: Part, fraction: float, seed: Sequence[int]) -> None:
    """Move a fraction of the training structures of each group, by size, to another part, in place."""
    counts = [np.count_nonzero(parts == Part.TRAIN) for parts in groups.values()]
    # Rounding the cumulative counts, rather than each group's, gives small groups their share as well.
    ends = np.rint(np.cumsum(counts) * fraction).astype(int)
    for (size, parts), number in zip(groups.items(), np.diff(ends, prepend=0), strict=True):
        rows = np.flatnonzero(parts == Part.TRAIN).astype(np.uint32)
        np.random.default_rng([*seed, size]).shuffle(rows)
        parts[rows[:number]] = part


def find_split(splits: Sequence[FileSplit], whole: FileSplit, fidelity: int, *, data: Path, file: Path) -> FileSplit:
    """Return the stored split of a data file, preferably that of the same fidelity.

    Args:
        splits: The content of the split file.
        whole: The split of the data file with all structures for training.
        fidelity: Index of the fidelity.
        data: The data file, for messages.
        file: The split file, for messages.

    Raises:
        DataError: The split file does not contain the data file.
    """
    order = sorted(range(len(splits)), key=lambda index: (index != fidelity, index))
    same_size = [splits[index] for index in order if len(splits[index].parts) == len(whole.parts)]
    same_rows = [split for split in same_size if np.array_equal(split.parts == LEFT_OUT, whole.parts == LEFT_OUT)]
    found = next((split for split in same_rows if split.checksum == whole.checksum), None)
    if found is not None:
        return found
    if not same_size:
        sizes = ", ".join(f"{len(split.parts):,}" for split in splits)
        reason = f"it has {len(whole.parts):,} structures, and the files of the split have {sizes}"
    elif not same_rows:
        reason = "other structures are left out; use the same data.min_distance and data.on_bad_structure"
    else:
        reason = "it contains other structures"
    raise DataError(f"the split in {file} is not that of {data}: {reason}")


def write_split(path: Path, splits: Sequence[FileSplit]) -> None:
    """Write the splits of the data files, by fidelity, with ``np.savez_compressed``.

    The arrays are ``format``, ``checksums`` (fidelities,), and ``parts_0``, ``parts_1``, … (rows,).

    Raises:
        OSError: The file cannot be written.
    """
    buffer = io.BytesIO()
    parts = {f"parts_{index}": split.parts for index, split in enumerate(splits)}
    checksums = np.array([split.checksum for split in splits], np.uint32)
    np.savez_compressed(buffer, format=np.array(FORMAT), checksums=checksums, **parts)  # type: ignore[arg-type] # any keywords
    atomic_write(path, buffer.getvalue())


def read_split(path: Path) -> tuple[FileSplit, ...]:
    """Read the splits of the data files, by fidelity.

    Raises:
        DataError: The file cannot be read, or is not a split.
    """
    try:
        with open(path, "rb", opener=open_regular) as file:
            with zipfile.ZipFile(file) as archive:
                _check_size(archive)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return tuple(_read_splits(arrays))
    except OSError as error:
        raise DataError(f"cannot read the split {path}: {error.strerror or error}") from error
    except Exception as error:  # any, because the file may contain anything
        raise DataError(f"{path} is not the split of a run: {error_text(error):.300}") from error


def _check_size(archive: zipfile.ZipFile) -> None:
    size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_BYTES:
        raise ValueError(f"its arrays have {size:,} bytes; expected up to {MAX_BYTES:,}")


def _read_splits(arrays: "np.lib.npyio.NpzFile") -> list[FileSplit]:
    if not np.array_equal(arrays["format"], FORMAT):
        raise ValueError(f"its format is {arrays['format']!r:.60}; expected {FORMAT}")
    checksums, splits = arrays["checksums"], []
    if checksums.dtype != np.uint32 or checksums.ndim != 1:
        raise ValueError("checksums are not a row of 32-bit integers")
    for index, checksum in enumerate(checksums.tolist()):
        parts = arrays[f"parts_{index}"]
        if parts.dtype != np.uint8 or parts.ndim != 1 or not np.isin(parts, [*Part, LEFT_OUT]).all():
            raise ValueError(f"parts_{index} is not a row of parts, which are 0, 1, 2 or {LEFT_OUT}")
        splits.append(FileSplit(parts=parts, checksum=checksum))
    return splits
