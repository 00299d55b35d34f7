"""Reading of HDF5 files: one group per number of atoms, named after it, such as ``007``.

A group contains ``coord`` (B, N, 3) in Å, ``numbers`` (B, N), and optionally ``charge`` (B,) in e, ``mult`` (B,) and
the labels defined in ``aimnet2mult.quantities``. ``numbers`` is 0 for padding.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np
from aimnet.data import DataGroup, SizeGroupedDataset

from aimnet2mult.data.checks import OPTIONAL_INPUTS, check_layout, check_structures
from aimnet2mult.data.unit_hints import find_precision_loss
from aimnet2mult.quantities import LABELS

__all__ = ["INPUTS", "read_fidelity"]

logger = logging.getLogger(__name__)

INPUTS = ("coord", "numbers", "charge", "mult", "fidelity")
"""Keys of a batch that are passed to the model."""


def read_fidelity(path: Path, *, labels: Iterable[str], fidelity: int = 0) -> SizeGroupedDataset:
    """Read a file into a data set with all of ``INPUTS`` and ``labels`` in every group.

    If the file lacks them, ``charge`` is 0, ``mult`` is 1, and labels are NaN. ``coord``, ``charge``, ``mult`` and the
    labels are float32, except for ``energy``, which is float64; ``numbers`` is int32, and ``fidelity`` (B,) int64.
    Infinite labels become NaN, with a warning that states their number.

    Raises:
        DataError: The file cannot be used; the message has the path and the location in the file.
    """
    wanted = tuple(labels)
    check_layout(path, wanted)
    present = _keys(path)
    dataset = SizeGroupedDataset(str(path), keys=[key for key in (*INPUTS[:-1], *wanted) if key in present])
    if "energy" in dataset.datakeys() and (loss := find_precision_loss(group["energy"] for group in dataset.groups)):
        logger.warning("%s: %s", path, loss)
    for size, group in dataset.items():
        check_structures(f"{path}, group {size}", group)
        _complete(group, wanted, fidelity)
    for label in wanted:
        infinite = sum(_mask_infinite(group, label) for group in dataset.groups)
        if infinite:
            logger.warning("%s: %d values of %s are infinite and treated as missing", path, infinite, label)
    return dataset


def _keys(path: Path) -> set[str]:
    with h5py.File(path, "r") as file:
        return set(next(iter(file.values())))


def _complete(group: DataGroup, labels: Sequence[str], fidelity: int) -> None:
    """Add missing keys to a group, and convert all arrays to the types of a batch."""
    structures, atoms = group["numbers"].shape
    group["coord"] = group["coord"].astype(np.float32)
    group["numbers"] = group["numbers"].astype(np.int32)
    group["fidelity"] = np.full(structures, fidelity, np.int64)
    for key, default in OPTIONAL_INPUTS.items():
        group[key] = group[key].astype(np.float32) if key in group else np.full(structures, default, np.float32)
    for label in labels:
        # Total energies need float64 until the reference energies are subtracted.
        dtype = np.float64 if label == "energy" else np.float32
        shape = LABELS[label].shape(structures, atoms)
        group[label] = group[label].astype(dtype) if label in group else np.full(shape, np.nan, dtype)


def _mask_infinite(group: DataGroup, label: str) -> int:
    infinite = np.isinf(group[label])
    group[label][infinite] = np.nan
    return int(infinite.sum())
