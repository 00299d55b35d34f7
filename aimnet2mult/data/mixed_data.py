"""The data of a training run: structures of all fidelities for training, validation and test."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.crc import combine_crc
from aimnet2mult.data.dataset import DataSet, read_blocks
from aimnet2mult.data.label_summary import Summary
from aimnet2mult.data.places import Places
from aimnet2mult.data.reference_energies import Sae
from aimnet2mult.data.split import FileSplit, Part
from aimnet2mult.quantities import Label

__all__ = ["MixedData"]


TRAINING_FILES = "data.fidelity_datasets."
"""Prefix of the keys of the training files."""


@dataclass(frozen=True, kw_only=True)
class MixedData:
    """Training, validation and test data; tuples have one entry per fidelity.

    Every group of a data set has all inputs and labels, with NaN for missing ones. ``energy`` is in eV, less the
    reference energies. The array ``origin`` (B,) numbers the structures, for ``locate``.
    """

    train: DataSet
    val: DataSet
    """Empty if no structure is for validation."""
    test: DataSet
    """Empty if no structure is for the test."""
    train_counts: tuple[int, ...]
    """Number of training structures."""
    val_counts: tuple[int, ...]
    """Number of validation structures."""
    test_counts: tuple[int, ...]
    """Number of test structures."""
    splits: tuple[FileSplit, ...]
    """The part of each structure in the training files."""
    labels: tuple[tuple[Label, ...], ...]
    """Labels present in at least one structure of the fidelity."""
    saes: tuple[Sae, ...]
    """Reference energies that were subtracted; empty if the fidelity has no energies or they are not trained."""
    elements: tuple[frozenset[int], ...]
    """Atomic numbers in the training structures."""
    summaries: tuple[Summary, ...]
    """What the structures of all parts contain."""
    size: int
    """Size of all structures in memory, in bytes."""
    in_memory: bool
    """Whether they are in memory; otherwise, they are read from files batch by batch."""
    places: Places
    """Where the structures come from."""
    checksums: Mapping[str, int]
    """CRC-32 of what was read from each file, by the key of its setting; independent of split, batches and paths."""

    def locate(self, origins: npt.NDArray[np.int64]) -> list[str]:
        """Return where structures come from, such as ``a.h5, group 003, row 217``; rows count from 0.

        Args:
            origins: Values of the array ``origin``.
        """
        return [self.places.describe(origin) for origin in origins.tolist()]

    def fingerprint(self) -> int:
        """Return a CRC-32 of what determines the training structures, in order, to detect changed data on a resume.

        Nothing is read: the files are represented by their checksums.
        """
        parts = [
            repr([self.checksums[key] for key in sorted(self.checksums) if key.startswith(TRAINING_FILES)]).encode(),
            repr([sorted(sae.items()) for sae in self.saes]).encode(),
            repr([(size, len(group)) for size, group in self.train.items()]).encode(),
            *((split.parts == Part.TRAIN).tobytes() for split in self.splits),
        ]
        crc = 0
        for part in parts:
            crc = zlib.crc32(part, crc)
        return crc

    def content_checksum(self) -> int:
        """Return a CRC-32 of the training structures and labels, in order: the fingerprint of versions before 0.2.

        Reads all of them.

        Raises:
            DataError: A file cannot be read.
        """
        keys = sorted(key for key in self.train.arrays if key != "origin")
        crc = 0
        for group in self.train.groups:
            crcs, sizes = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
            for block in read_blocks(group, keys):
                for key, values in block.items():
                    crcs[key] = zlib.crc32(np.ascontiguousarray(values).data, crcs[key])
                    sizes[key] += values.nbytes
            for key in keys:
                crc = combine_crc(zlib.crc32(key.encode(), crc), crcs[key], sizes[key])
        return crc
