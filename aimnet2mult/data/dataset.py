"""The data of a training run: one HDF5 file per fidelity, shifted by reference energies, split and merged."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from aimnet.data import SizeGroupedDataset

from aimnet2mult.data.hdf5 import read_fidelity
from aimnet2mult.data.reference_energies import Sae, apply_sae, fit_sae, read_sae
from aimnet2mult.errors import DataError

__all__ = ["MixedData", "load_data"]

MIN_BATCHES_PER_GROUP = 8
"""Minimum size of a group in batches, as in aimnet's trainer."""


@dataclass(frozen=True, kw_only=True)
class MixedData:
    """Training and validation data; tuples have one entry per fidelity.

    Every group of a data set has all inputs and labels, with NaN for missing ones. ``energy`` is in eV, less the
    reference energies.
    """

    train: SizeGroupedDataset
    val: SizeGroupedDataset
    """Empty if ``val_fraction`` is 0 and there are no validation files."""
    train_counts: tuple[int, ...]
    """Number of training structures."""
    val_counts: tuple[int, ...]
    """Number of validation structures."""
    labels: tuple[tuple[str, ...], ...]
    """Labels present in at least one structure of the fidelity."""
    saes: tuple[Sae, ...]
    """Reference energies that were subtracted; empty if the fidelity has no energies or they are not trained."""

    checksums: Mapping[str, int]
    """CRC-32 of what was read from each file, by the key of its setting; independent of split, batches and paths."""

    def fingerprint(self) -> int:
        """Return a CRC-32 of the training structures and labels, in order, to detect changed data on a resume."""
        crc = 0
        for group in self.train.values():
            for key, values in sorted(group.items()):
                crc = zlib.crc32(np.ascontiguousarray(values).data, zlib.crc32(key.encode(), crc))
        return crc


def load_data(
    files: Sequence[Path],
    *,
    labels: Sequence[str],
    val_fraction: float,
    seed: int,
    batch_size: int,
    batch_mode: str = "molecules",
    sae_files: Mapping[int, Path] | None = None,
    val_files: Mapping[int, Path] | None = None,
) -> MixedData:
    """Read one file per fidelity, subtract the reference energies, split and merge.

    Without validation files, each size group is split at random; the split depends only on ``seed``, ``val_fraction``,
    the fidelity and the sizes of the groups. Every structure is in exactly one part. Size groups of the training data
    with fewer than ``MIN_BATCHES_PER_GROUP`` batches are merged with the next larger group and padded with zeros.

    Args:
        files: Training data by fidelity.
        labels: Labels to be trained.
        val_fraction: Fraction of each fidelity for validation, at least 0 and below 1; not used with ``val_files``.
        seed: Seed of the split.
        batch_size: Batch size of the training.
        batch_mode: Unit of ``batch_size``: ``atoms`` or ``molecules``.
        sae_files: Files of reference energies by fidelity; the others are fitted.
        val_files: Validation data by fidelity; if there are any, all structures in ``files`` are for training.

    Raises:
        DataError: A file cannot be used, a label is in none of them, or a part would be empty although validation was
            requested.
    """
    if not files:
        raise DataError("no data set is given")
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction!r}; expected at least 0 and below 1")
    sets = [read_fidelity(path, labels=labels, fidelity=i) for i, path in enumerate(files)]
    val_sets = {i: read_fidelity(path, labels=labels, fidelity=i) for i, path in (val_files or {}).items()}
    checksums = {f"data.fidelity_datasets.{i}": _checksum(dataset) for i, dataset in enumerate(sets)}
    checksums |= {f"data.val_fidelity_datasets.{i}": _checksum(dataset) for i, dataset in val_sets.items()}
    known = tuple(_known_labels(dataset, labels) for dataset in sets)
    _check_labels(labels, known, files)
    saes = tuple(
        _shift(dataset, path, (sae_files or {}).get(i)) if "energy" in names else {}
        for i, (dataset, path, names) in enumerate(zip(sets, files, known, strict=True))
    )
    if val_files:
        for i, dataset in val_sets.items():
            _shift_validation(dataset, val_files[i], saes[i])
        train, val = sets, [val_sets.get(i, SizeGroupedDataset()) for i in range(len(files))]
    else:
        pairs = [_split(dataset, val_fraction, (seed, i)) for i, dataset in enumerate(sets)]
        train, val = ([pair[part] for pair in pairs] for part in (0, 1))
    _energies_to_float32([*train, *val])
    train_counts, val_counts = tuple(map(len, train)), tuple(map(len, val))
    if val_files:
        _check_not_empty("training", files, sum(train_counts))
        _check_not_empty("validation", val_files.values(), sum(val_counts))
    else:
        _check_split(sum(train_counts), sum(val_counts), val_fraction)
    merged = _merge(train)
    merged.merge_groups(min_size=MIN_BATCHES_PER_GROUP * batch_size, mode_atoms=batch_mode == "atoms")
    return MixedData(
        train=merged,
        val=_merge(val),
        train_counts=train_counts,
        val_counts=val_counts,
        labels=known,
        saes=saes,
        checksums=checksums,
    )


def _checksum(dataset: SizeGroupedDataset) -> int:
    crc = 0
    for group in dataset.groups:
        for key, values in sorted(group.items()):
            # Where a structure comes from is not part of its content.
            if key != "origin":
                crc = zlib.crc32(np.ascontiguousarray(values).data, zlib.crc32(key.encode(), crc))
    return crc


def _known_labels(dataset: SizeGroupedDataset, labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(label for label in labels if any(np.isfinite(group[label]).any() for group in dataset.groups))


def _check_labels(labels: Sequence[str], known: Sequence[Sequence[str]], files: Sequence[Path]) -> None:
    for label in labels:
        if not any(label in names for names in known):
            rest = ",".join(name for name in labels if name != label)
            raise DataError(
                f"label {label!r} is in none of the data sets {', '.join(map(str, files))}; "
                f"leave it out: data.y=[{rest}]"
            )


def _check_not_empty(part: str, files: Iterable[Path], count: int) -> None:
    if not count:
        raise DataError(f"there are no structures in the {part} data {', '.join(map(str, files))}")


def _check_split(train: int, val: int, val_fraction: float) -> None:
    for part, count in (("training", train), ("validation", val)):
        if not count and (part == "training" or val_fraction > 0):
            raise DataError(f"val_fraction {val_fraction} of {train + val} structures leaves none for {part}")


def _shift(dataset: SizeGroupedDataset, path: Path, sae_file: Path | None) -> Sae:
    """Subtract reference energies, read from a file or fitted, in place, and return them."""
    sae = fit_sae(dataset.groups, path) if sae_file is None else read_sae(sae_file)
    apply_sae(dataset, sae, path)
    return sae


def _shift_validation(dataset: SizeGroupedDataset, path: Path, sae: Sae) -> None:
    """Subtract the reference energies of the training data from validation data.

    If there are none, because the training data have no energies, treat the validation energies as missing.
    """
    if sae:
        apply_sae(dataset, sae, path)
    else:
        for group in (group for group in dataset.groups if "energy" in group):
            group["energy"][:] = np.nan


def _energies_to_float32(sets: Iterable[SizeGroupedDataset]) -> None:
    """Convert energies to float32, which is precise enough once the reference energies are subtracted."""
    for group in (group for dataset in sets for group in dataset.groups if "energy" in group):
        group["energy"] = group["energy"].astype(np.float32)


def _split(
    dataset: SizeGroupedDataset, val_fraction: float, key: Sequence[int]
) -> tuple[SizeGroupedDataset, SizeGroupedDataset]:
    """Split each group at random into training and validation, seeded by ``key`` and the group's size."""
    train, val = SizeGroupedDataset(), SizeGroupedDataset()
    # Rounding the cumulative counts, rather than each group's, gives small groups their share as well.
    ends = np.rint(np.cumsum([len(group) for group in dataset.groups]) * val_fraction).astype(int)
    for (size, group), number in zip(dataset.items(), np.diff(ends, prepend=0), strict=True):
        order = np.random.default_rng([*key, size]).permutation(len(group))
        for part, rows in ((val, order[:number]), (train, order[number:])):
            if len(rows):
                part[size] = group.sample(np.sort(rows))
    return train, val


def _merge(parts: Iterable[SizeGroupedDataset]) -> SizeGroupedDataset:
    """Merge data sets with the same keys; the arguments must not be used afterwards."""
    first, *rest = [part for part in parts if len(part)] or [SizeGroupedDataset()]
    for part in rest:
        first.merge(part)
    return first
