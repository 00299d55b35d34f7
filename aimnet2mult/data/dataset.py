"""The data of a training run: one HDF5 file per fidelity, shifted by reference energies, split and merged."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from aimnet.data import SizeGroupedDataset

from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.hdf5 import check_or_raise, read_fidelity, read_segments
from aimnet2mult.data.places import Places, Segment
from aimnet2mult.data.reference_energies import Sae, apply_sae, fit_sae, read_sae
from aimnet2mult.data.report import SkippedRows
from aimnet2mult.data.split import FileSplit, Part, find_split, read_split, split_at_random
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["MixedData", "load_data"]

MIN_BATCHES_PER_GROUP = 8
"""Minimum size of a group in batches, as in aimnet's trainer."""
KEYS = {
    Part.TRAIN: "data.fidelity_datasets",
    Part.VAL: "data.val_fidelity_datasets",
    Part.TEST: "data.test_fidelity_datasets",
}
"""The setting that names the files of each part."""


@dataclass(frozen=True, kw_only=True)
class MixedData:
    """Training, validation and test data; tuples have one entry per fidelity.

    Every group of a data set has all inputs and labels, with NaN for missing ones. ``energy`` is in eV, less the
    reference energies. The array ``origin`` (B,) numbers the structures, for ``locate``.
    """

    train: SizeGroupedDataset
    val: SizeGroupedDataset
    """Empty if no structure is for validation."""
    test: SizeGroupedDataset
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

    def groups_of(self, fidelity: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield the arrays of the structures of a fidelity, in each group of all parts that has any."""
        for group in (*self.train.groups, *self.val.groups, *self.test.groups):
            rows = group["fidelity"] == fidelity
            if rows.any():
                yield {key: values if rows.all() else values[rows] for key, values in group.items()}

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
    test_fraction: float = 0.0,
    split_file: Path | None = None,
    sae_files: Mapping[int, Path | Sae] | None = None,
    val_files: Mapping[int, Path] | None = None,
    test_files: Mapping[int, Path] | None = None,
    file_format: FileFormat | None = None,
    skipped: SkippedRows | None = None,
    check_checksums: Callable[[Mapping[str, int]], None] = lambda _: None,
) -> MixedData:
    """Read one file per fidelity, subtract the reference energies, split and merge.

    Without a split file, each size group is split at random; the split depends only on ``seed``, the fractions, the
    fidelity and the sizes of the groups. Every structure is in exactly one part. Size groups of the training data
    with fewer than ``MIN_BATCHES_PER_GROUP`` batches are merged with the next larger group and padded with zeros.

    Args:
        files: Training data by fidelity.
        labels: Labels to be trained.
        val_fraction: Fraction of each fidelity for validation; not used with ``val_files``.
        seed: Seed of the split.
        batch_size: Batch size of the training.
        batch_mode: Unit of ``batch_size``: ``atoms`` or ``molecules``.
        test_fraction: Fraction of each fidelity for the test; not used with ``test_files``.
        split_file: File with the split of ``files``, in place of the fractions and the seed.
        sae_files: Reference energies by fidelity, or files of them; the others are fitted.
        val_files: Validation data by fidelity; if there are any, no structure in ``files`` is for validation.
        test_files: Test data by fidelity; if there are any, no structure in ``files`` is for the test.
        file_format: Names and units of the arrays in the files.
        skipped: Rows to leave out, if the files have been checked; by default, they are checked here.
        check_checksums: Function that raises an error if the files do not have the expected `MixedData.checksums`.

    Raises:
        DataError: A file cannot be used, a label is in none of them, a part would be empty although it was requested,
            or the split file is of other files.
    """
    if not files:
        raise DataError("no data set is given")
    given = {Part.TRAIN: dict(enumerate(files)), Part.VAL: val_files or {}, Part.TEST: test_files or {}}
    fractions = {
        Part.VAL: 0.0 if val_files else val_fraction,
        Part.TEST: 0.0 if test_files else test_fraction,
    }
    _check_fractions(fractions)
    if skipped is None:
        others = (*given[Part.VAL].values(), *given[Part.TEST].values())
        skipped = check_or_raise(files, others, labels=labels, required=labels, file_format=file_format or FileFormat())
    sets = {
        part: {
            i: read_fidelity(path, labels=labels, fidelity=i, file_format=file_format, skipped=skipped)
            for i, path in paths.items()
        }
        for part, paths in given.items()
    }
    segments = {part: [read_segments(path, file_format) for path in paths.values()] for part, paths in given.items()}
    checksums = {f"{KEYS[part]}.{i}": _checksum(dataset) for part in Part for i, dataset in sets[part].items()}
    check_checksums(checksums)
    training = sets[Part.TRAIN]
    known = tuple(_known_labels(dataset, labels) for dataset in training.values())
    saes = tuple(
        _shift(training[i], path, (sae_files or {}).get(i)) if any(label.name == "energy" for label in known[i]) else {}
        for i, path in enumerate(files)
    )
    for part in (Part.VAL, Part.TEST):
        _shift_others(sets[part], given[part], saes)
    rows = [sum(segment.rows for segment in of_file) for of_file in segments[Part.TRAIN]]
    wholes = [FileSplit.all_training(dataset, rows[i]) for i, dataset in training.items()]
    if split_file is None:
        splits = tuple(split_at_random(training[i], whole, fractions, (seed, i)) for i, whole in enumerate(wholes))
        source = _describe_fractions(fractions)
    else:
        splits, source = _stored_splits(split_file, wholes, given), f"the split in {split_file}"
    _check_splits(splits, source, fractions if split_file is None else {})
    parts, counts = _distribute(sets, splits, segments)
    merged = _merge(parts[Part.TRAIN])
    merged.merge_groups(min_size=MIN_BATCHES_PER_GROUP * batch_size, mode_atoms=batch_mode == "atoms")
    return MixedData(
        train=merged,
        val=_merge(parts[Part.VAL]),
        test=_merge(parts[Part.TEST]),
        train_counts=counts[Part.TRAIN],
        val_counts=counts[Part.VAL],
        test_counts=counts[Part.TEST],
        labels=known,
        saes=saes,
        places=Places([segment for part in Part for of_file in segments[part] for segment in of_file]),
        splits=splits,
        checksums=checksums,
    )


def _check_fractions(fractions: Mapping[Part, float]) -> None:
    for part, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise DataError(f"{part.name.lower()}_fraction is {fraction!r}; expected at least 0 and below 1")
    if not sum(fractions.values()) < 1:
        raise DataError(f"{_describe_fractions(fractions)} leave nothing for training; expected a sum below 1")


def _describe_fractions(fractions: Mapping[Part, float]) -> str:
    texts = {part: f"{part.name.lower()}_fraction {fraction}" for part, fraction in fractions.items()}
    return " and ".join(texts[part] for part in fractions if part == Part.VAL or fractions[part])


def _stored_splits(
    file: Path, wholes: Sequence[FileSplit], given: Mapping[Part, Mapping[int, Path]]
) -> tuple[FileSplit, ...]:
    """Return the splits of the training files in a split file."""
    stored = read_split(file)
    splits = tuple(find_split(stored, whole, i, data=given[Part.TRAIN][i], file=file) for i, whole in enumerate(wholes))
    for part in (Part.VAL, Part.TEST):
        if given[part] and any(split.count(part) for split in splits):
            raise DataError(f"{KEYS[part]} is set, but the split in {file} has such structures already; omit either")
    return splits


def _distribute(
    sets: Mapping[Part, Mapping[int, SizeGroupedDataset]],
    splits: Sequence[FileSplit],
    segments: Mapping[Part, Sequence[Sequence[Segment]]],
) -> tuple[dict[Part, list[SizeGroupedDataset]], dict[Part, tuple[int, ...]]]:
    """Return the data sets of each part, and their numbers of structures by fidelity; number the structures."""
    parts: dict[Part, list[SizeGroupedDataset]] = {part: [] for part in Part}
    counts = {part: [0] * len(splits) for part in Part}
    start = 0
    for of_files in Part:
        for (fidelity, dataset), of_file in zip(sets[of_files].items(), segments[of_files], strict=True):
            selected = {of_files: dataset}
            if of_files == Part.TRAIN:
                selected = {part: splits[fidelity].select(dataset, part) for part in Part}
            for part, piece in selected.items():
                parts[part].append(_finish(piece, start))
                counts[part][fidelity] += len(piece)
            start += sum(segment.rows for segment in of_file)
    return parts, {part: tuple(by_fidelity) for part, by_fidelity in counts.items()}


def _finish(dataset: SizeGroupedDataset, start: int) -> SizeGroupedDataset:
    """Number the structures from ``start``, and convert energies to float32, in place.

    Float32 is precise enough once the reference energies are subtracted.
    """
    for group in dataset.groups:
        group["origin"] += start
        if "energy" in group:
            group["energy"] = group["energy"].astype(np.float32)
    return dataset


def _check_splits(splits: Sequence[FileSplit], source: str, requested: Mapping[Part, float]) -> None:
    """Check that no part that is needed is empty."""
    names = {Part.TRAIN: "training", Part.VAL: "validation", Part.TEST: "the test"}
    counts = {part: sum(split.count(part) for split in splits) for part in Part}
    for part, name in names.items():
        if not counts[part] and (part == Part.TRAIN or requested.get(part)):
            raise DataError(f"{source} of {sum(counts.values())} structures leaves none for {name}")
    for index, split in enumerate(splits):
        if not split.count(Part.TRAIN):
            # Its reference energies would be fitted all the same, and its heads would stay random.
            raise DataError(f"{source} leaves none of the structures of fidelity {index} for training")


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


def _shift(dataset: SizeGroupedDataset, path: Path, given: Path | Sae | None) -> Sae:
    """Subtract reference energies, given, read from a file or fitted, in place, and return them."""
    sae = fit_sae(dataset.groups, path) if given is None else read_sae(given) if isinstance(given, Path) else given
    apply_sae(dataset, sae, path)
    return sae


def _shift_others(sets: Mapping[int, SizeGroupedDataset], paths: Mapping[int, Path], saes: Sequence[Sae]) -> None:
    """Subtract the reference energies of the training data from the energies of validation or test data.

    If there are none, because the training data have no energies, treat these energies as missing.
    """
    for index, dataset in sets.items():
        if saes[index]:
            apply_sae(dataset, saes[index], paths[index])
        else:
            for group in (group for group in dataset.groups if "energy" in group):
                group["energy"][:] = np.nan


def _merge(parts: Iterable[SizeGroupedDataset]) -> SizeGroupedDataset:
    """Merge data sets with the same keys; the arguments must not be used afterwards."""
    first, *rest = [part for part in parts if len(part)] or [SizeGroupedDataset()]
    for part in rest:
        first.merge(part)
    return first
