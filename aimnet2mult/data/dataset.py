"""The data of a training run: one HDF5 file per fidelity, shifted by reference energies, split and merged."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from aimnet.data import SizeGroupedDataset

from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.hdf5 import check_or_raise, read_fidelity, read_segments
from aimnet2mult.data.places import Places
from aimnet2mult.data.reference_energies import Sae, apply_sae, fit_sae, read_sae
from aimnet2mult.data.report import SkippedRows
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["MixedData", "load_data"]

MIN_BATCHES_PER_GROUP = 8
"""Minimum size of a group in batches, as in aimnet's trainer."""


@dataclass(frozen=True, kw_only=True)
class MixedData:
    """Training and validation data; tuples have one entry per fidelity.

    Every group of a data set has all inputs and labels, with NaN for missing ones. ``energy`` is in eV, less the
    reference energies. The array ``origin`` (B,) numbers the structures, for ``locate``.
    """

    train: SizeGroupedDataset
    val: SizeGroupedDataset
    """Empty if ``val_fraction`` is 0 and there are no validation files."""
    train_counts: tuple[int, ...]
    """Number of training structures."""
    val_counts: tuple[int, ...]
    """Number of validation structures."""
    labels: tuple[tuple[Label, ...], ...]
    """Labels present in at least one structure of the fidelity."""
    saes: tuple[Sae, ...]
    """Reference energies that were subtracted; empty if the fidelity has no energies or they are not trained."""
    places: Places
    """Where the structures come from."""
    checksums: Mapping[str, int]
    """CRC-32 of what was read from each file, by the key of its setting; independent of split, batches and paths."""

    def locate(self, origins: npt.NDArray[np.int64]) -> list[str]:
        """Return where structures come from, such as ``a.h5, group 003, row 217``; rows count from 0.

        Args:
            origins: Values of the array ``origin``, of training or validation structures.
        """
        return [self.places.describe(origin) for origin in origins.tolist()]

    def fingerprint(self) -> int:
        """Return a CRC-32 of the training structures and labels, in order, to detect changed data on a resume."""
        crc = 0
        for group in self.train.values():
            # Checkpoints of earlier versions know no origins.
            for key, values in sorted((key, values) for key, values in group.items() if key != "origin"):
                crc = zlib.crc32(np.ascontiguousarray(values).data, zlib.crc32(key.encode(), crc))
        return crc


def load_data(
    files: Sequence[Path],
    *,
    labels: Sequence[Label],
    val_fraction: float,
    seed: int,
    batch_size: int,
    batch_mode: str = "molecules",
    sae_files: Mapping[int, Path | Sae] | None = None,
    val_files: Mapping[int, Path] | None = None,
    file_format: FileFormat | None = None,
    skipped: SkippedRows | None = None,
) -> MixedData:
    """Read one file per fidelity, subtract the reference energies, split and merge.

    Without validation files, each size group is split at random; the split depends only on ``seed``, ``val_fraction``,
    the fidelity and the sizes of the groups. Every structure is in exactly one part. Size groups of the training data
    with fewer than ``MIN_BATCHES_PER_GROUP`` batches are merged with the next larger group and padded with zeros.

    Args:
        files: Training data by fidelity.
        labels: Labels to be trained.
        val_fraction: Fraction of each fidelity for validation, at least 0 and below 1; not used with ``val_files``.
            The setting ``data.val_fraction`` must be above 0, since a run needs validation data.
        seed: Seed of the split.
        batch_size: Batch size of the training.
        batch_mode: Unit of ``batch_size``: ``atoms`` or ``molecules``.
        sae_files: Reference energies by fidelity, or files of them; the others are fitted.
        val_files: Validation data by fidelity; if there are any, all structures in ``files`` are for training.
        file_format: Names and units of the arrays in the files.
        skipped: Rows to leave out, if the files have been checked; by default, they are checked here.

    Raises:
        DataError: A file cannot be used, a label is in none of them, or a part would be empty although validation was
            requested.
    """
    if not files:
        raise DataError("no data set is given")
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction!r}; expected at least 0 and below 1")
    val_files = val_files or {}
    if skipped is None:
        skipped = check_or_raise(
            files, val_files.values(), labels=labels, required=labels, file_format=file_format or FileFormat()
        )
    segments = [read_segments(path, file_format) for path in (*files, *val_files.values())]
    starts = np.cumsum([0, *(sum(segment.rows for segment in part) for part in segments)]).tolist()

    def read(path: Path, fidelity: int, start: int) -> SizeGroupedDataset:
        dataset = read_fidelity(path, labels=labels, fidelity=fidelity, file_format=file_format, skipped=skipped)
        for group in dataset.groups:
            group["origin"] += start
        return dataset

    sets = [read(path, i, starts[i]) for i, path in enumerate(files)]
    val_sets = {i: read(path, i, starts[len(files) + n]) for n, (i, path) in enumerate(val_files.items())}
    checksums = {f"data.fidelity_datasets.{i}": _checksum(dataset) for i, dataset in enumerate(sets)}
    checksums |= {f"data.val_fidelity_datasets.{i}": _checksum(dataset) for i, dataset in val_sets.items()}
    known = tuple(_known_labels(dataset, labels) for dataset in sets)
    saes = tuple(
        _shift(dataset, path, (sae_files or {}).get(i)) if any(label.name == "energy" for label in present) else {}
        for i, (dataset, path, present) in enumerate(zip(sets, files, known, strict=True))
    )
    if val_files:
        _shift_validation(val_sets, val_files, saes)
        train, val = sets, list(val_sets.values())
        val_counts = tuple(len(val_sets.get(i, ())) for i in range(len(files)))
    else:
        pairs = [_split(dataset, val_fraction, (seed, i)) for i, dataset in enumerate(sets)]
        train, val = ([pair[part] for pair in pairs] for part in (0, 1))
        val_counts = tuple(map(len, val))
        _check_split(sum(map(len, train)), sum(val_counts), val_fraction)
    _energies_to_float32([*train, *val])
    train_counts = tuple(map(len, train))
    merged = _merge(train)
    merged.merge_groups(min_size=MIN_BATCHES_PER_GROUP * batch_size, mode_atoms=batch_mode == "atoms")
    return MixedData(
        train=merged,
        val=_merge(val),
        train_counts=train_counts,
        val_counts=val_counts,
        labels=known,
        saes=saes,
        places=Places([segment for part in segments for segment in part]),
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


def _known_labels(dataset: SizeGroupedDataset, labels: Sequence[Label]) -> tuple[Label, ...]:
    return tuple(label for label in labels if any(np.isfinite(group[label.name]).any() for group in dataset.groups))


def _check_split(train: int, val: int, val_fraction: float) -> None:
    for part, count in (("training", train), ("validation", val)):
        if not count and (part == "training" or val_fraction > 0):
            raise DataError(f"val_fraction {val_fraction} of {train + val} structures leaves none for {part}")


def _shift(dataset: SizeGroupedDataset, path: Path, given: Path | Sae | None) -> Sae:
    """Subtract reference energies, given, read from a file or fitted, in place, and return them."""
    sae = fit_sae(dataset.groups, path) if given is None else read_sae(given) if isinstance(given, Path) else given
    apply_sae(dataset, sae, path)
    return sae


def _shift_validation(
    validation: Mapping[int, SizeGroupedDataset], paths: Mapping[int, Path], saes: Sequence[Sae]
) -> None:
    """Subtract the reference energies of the training data from the energies of the validation data.

    If there are none, because the training data have no energies, treat the validation energies as missing.
    """
    for index, dataset in validation.items():
        if saes[index]:
            apply_sae(dataset, saes[index], paths[index])
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
