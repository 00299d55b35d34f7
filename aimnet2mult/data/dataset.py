"""The data of a training run: one HDF5 file a fidelity, merged into one data set and split.

A file has a group for each number of atoms, named by it, with the arrays ``coord`` (B, N, 3) in Å,
``numbers`` (B, N) and labels as ``aimnet2mult.labels`` has them; ``charge`` and ``mult`` (B,) are 0
and 1 where a file has none. In the data set that results every group has all of ``INPUTS`` and all
labels that are learnt, NaN where a structure lacks one, and ``energy`` is what the reference
energies leave. ``numbers`` is 0 where a row is padded.
"""

import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from aimnet.data import DataGroup, SizeGroupedDataset

from aimnet2mult.data.reference_energies import Sae, apply_sae, fit_sae, read_sae
from aimnet2mult.errors import DataError
from aimnet2mult.labels import LABELS

__all__ = ["INPUTS", "MAX_ELEMENT", "MixedData", "load_data", "read_fidelity"]

logger = logging.getLogger(__name__)

INPUTS = ("coord", "numbers", "charge", "mult", "fidelity")
"""The keys of a batch that a model is given."""

MAX_ELEMENT = 63
"""aimnet's embedding has rows for the elements up to this one."""

_DEFAULTS = {"charge": 0.0, "mult": 1.0}

# As aimnet's trainer has it: a group smaller than so many batches is padded into the next larger one.
_BATCHES_PER_GROUP = 8


@dataclass(frozen=True, kw_only=True)
class MixedData:
    """What ``load_data`` returns; sequences have one entry a fidelity, in the order of the files."""

    train: SizeGroupedDataset
    val: SizeGroupedDataset
    """Empty if ``val_fraction`` is 0 and there are no files for it."""
    train_counts: tuple[int, ...]
    """Training structures."""
    val_counts: tuple[int, ...]
    labels: tuple[tuple[str, ...], ...]
    """The labels that at least one structure of the fidelity has."""
    saes: tuple[Sae, ...]
    """The reference energies that were subtracted; empty where the energy is not learnt or not known."""

    def fingerprint(self) -> int:
        """Return a CRC-32 of all training structures and their labels, in order: a resume needs the same ones."""
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
    """Read one file a fidelity, take the reference energies off, split, and merge.

    ``sae_files`` names files of reference energies by fidelity; where there is none they are fitted
    to the fidelity's structures. ``val_files`` names files of validation data by fidelity; with any, all
    structures of ``files`` are trained on. Otherwise each fidelity and size group is split into training and validation
    by ``seed`` alone, ``val_fraction`` of each fidelity, rounded, for validation; every structure is
    in exactly one. Size groups of the training data with less than eight batches of ``batch_size``
    are merged with the next larger group, padded with zeros.

    Raises ``DataError`` if a file cannot be used, if a label is in none of them, or if either part
    would be empty (validation only where ``val_fraction`` is not 0).
    """
    if not files:
        raise DataError("no data sets are given")
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction {val_fraction!r} is not at least 0 and below 1")
    sets = [read_fidelity(path, labels=labels, fidelity=i) for i, path in enumerate(files)]
    known = [_known_labels(dataset, labels) for dataset in sets]
    for label in labels:
        if not any(label in names for names in known):
            rest = ",".join(name for name in labels if name != label)
            raise DataError(
                f"label {label!r} is in none of the data sets {', '.join(map(str, files))}; "
                f"leave it out: data.y=[{rest}]"
            )
    saes = [
        _shift(dataset, path, (sae_files or {}).get(i)) if "energy" in names else {}
        for i, (dataset, path, names) in enumerate(zip(sets, files, known, strict=True))
    ]
    if val_files:
        train, val = sets, [_validation(val_files.get(i), labels, i, sae) for i, sae in enumerate(saes)]
    else:
        pairs = [_split(dataset, val_fraction, (seed, i)) for i, dataset in enumerate(sets)]
        train, val = ([pair[part] for pair in pairs] for part in (0, 1))
    _round_energies([*train, *val])
    counts = tuple(map(len, train)), tuple(map(len, val))
    for name, number in (("training", sum(counts[0])), ("validation", sum(counts[1]))):
        if number == 0 and (name == "training" or (val_fraction > 0 and not val_files)):
            raise DataError(f"val_fraction {val_fraction} of {sum(map(sum, counts))} structures leaves none for {name}")
    if val_files and not sum(counts[1]):
        raise DataError(f"there are no structures in the validation data {', '.join(map(str, val_files.values()))}")
    merged = _merge(train)
    merged.merge_groups(min_size=_BATCHES_PER_GROUP * batch_size, mode_atoms=batch_mode == "atoms")
    return MixedData(
        train=merged,
        val=_merge(val),
        train_counts=counts[0],
        val_counts=counts[1],
        labels=tuple(known),
        saes=tuple(saes),
    )


def read_fidelity(path: Path, *, labels: Iterable[str], fidelity: int = 0) -> SizeGroupedDataset:
    """Read a file into a data set that has all of ``INPUTS`` and ``labels`` in every group.

    ``coord``, ``charge``, ``mult`` and the labels are float32, but ``energy`` float64; ``numbers``
    int32, ``fidelity`` int64. Labels that are not finite are NaN; how many were infinite is logged.

    Raises ``DataError``, with the path and what is wrong there, for what is described at the top.
    """
    wanted = tuple(labels)
    _check_layout(path, wanted)
    present = _keys(path)
    dataset = SizeGroupedDataset(str(path), keys=[k for k in (*INPUTS[:-1], *wanted) if k in present])
    for size, group in dataset.items():
        _check_structures(f"{path}, group {size}", group)
        _complete(group, wanted, fidelity)
    for label in wanted:
        infinite = sum(_mask_infinite(group, label) for group in dataset.groups)
        if infinite:
            logger.warning("%s: %d values of %s are infinite and count as missing", path, infinite, label)
    return dataset


def _keys(path: Path) -> set[str]:
    with h5py.File(path, "r") as file:
        return set(next(iter(file.values())))


def _check_layout(path: Path, labels: Sequence[str]) -> None:
    """Check names and shapes before arrays are read: what is wrong is said with its place in the file."""
    if not Path(path).is_file():
        raise DataError(f"no data set {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"the data set {path} is not an HDF5 file: {error}") from error
    with file:
        if not len(file):
            raise DataError(f"the data set {path} has no groups")
        first = next(iter(file))
        if len({name.lstrip("0") for name in file}) < len(file):
            raise DataError(f"{path}: several groups have the same number of atoms: {', '.join(file)}")
        for name, group in file.items():
            if not isinstance(group, h5py.Group) or not name.isdecimal():
                raise DataError(f"{path}: {name!r} is not a group named by its number of atoms, as '007' would be")
            _check_keys(f"{path}, group {name!r}", group, first, set(file[first]), labels)
            _check_shapes(f"{path}, group {name!r}", group, int(name), labels)


def _check_keys(where: str, group: h5py.Group, first: str, keys: set[str], labels: Sequence[str]) -> None:
    for key in ("coord", "numbers"):
        if key not in group:
            raise DataError(f"{where} has no {key!r}; it has {', '.join(sorted(group))}")
    for key in (*_DEFAULTS, *labels):
        if (key in group) != (key in keys):
            has, lacks = (where, f"group {first!r}") if key in group else (f"group {first!r}", where)
            raise DataError(
                f"{has} has {key!r} and {lacks} does not; write it, NaN for what is missing, or leave it out"
            )


def _check_shapes(where: str, group: h5py.Group, atoms: int, labels: Sequence[str]) -> None:
    structures = len(group["numbers"])
    shapes = {"numbers": (structures, atoms), "coord": (structures, atoms, 3)}
    shapes |= dict.fromkeys(_DEFAULTS, (structures,))
    shapes |= {label: LABELS[label].shape(structures, atoms) for label in labels}
    for key, shape in shapes.items():
        if key in group and group[key].shape != shape:
            raise DataError(f"{where}: {key!r} has the shape {group[key].shape}, expected {shape}")


def _check_structures(where: str, group: DataGroup) -> None:
    numbers = group["numbers"]
    real = numbers != 0
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= MAX_ELEMENT:
        wrong = np.unique(numbers[(numbers < 0) | (numbers > MAX_ELEMENT)]).tolist()
        raise DataError(f"{where}: atomic numbers {wrong}; the model knows 1 to {MAX_ELEMENT}, and 0 as padding")
    if not real.any(axis=1).all():
        raise DataError(f"{where}: structure {int(np.argmin(real.any(axis=1)))} has no atoms")
    fine = np.isfinite(group["coord"]).all(axis=-1) | ~real
    if not fine.all():
        raise DataError(f"{where}: structure {int(np.argmin(fine.all(axis=1)))} has coordinates that are not finite")


def _complete(group: DataGroup, labels: Sequence[str], fidelity: int) -> None:
    """Give a group all keys, in the types that batches have."""
    structures, atoms = group["numbers"].shape
    group["coord"] = group["coord"].astype(np.float32)
    group["numbers"] = group["numbers"].astype(np.int32)
    group["fidelity"] = np.full(structures, fidelity, np.int64)
    for key, default in _DEFAULTS.items():
        group[key] = group[key].astype(np.float32) if key in group else np.full(structures, default, np.float32)
    for label in labels:
        dtype = np.float64 if label == "energy" else np.float32
        shape = LABELS[label].shape(structures, atoms)
        group[label] = group[label].astype(dtype) if label in group else np.full(shape, np.nan, dtype)


def _mask_infinite(group: DataGroup, label: str) -> int:
    infinite = np.isinf(group[label])
    group[label][infinite] = np.nan
    return int(infinite.sum())


def _known_labels(dataset: SizeGroupedDataset, labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(label for label in labels if any(np.isfinite(group[label]).any() for group in dataset.groups))


def _shift(dataset: SizeGroupedDataset, path: Path, sae_file: Path | None) -> Sae:
    try:
        sae = fit_sae(dataset) if sae_file is None else read_sae(sae_file)
        apply_sae(dataset, sae)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return sae


def _validation(path: Path | None, labels: Sequence[str], fidelity: int, sae: Sae) -> SizeGroupedDataset:
    """Read a fidelity's own validation data, less the reference energies of its training data.

    Energies count as missing where the training data have none.
    """
    if path is None:
        return SizeGroupedDataset()
    dataset = read_fidelity(path, labels=labels, fidelity=fidelity)
    try:
        if sae:
            apply_sae(dataset, sae)
        elif "energy" in labels:
            for group in dataset.groups:
                group["energy"][:] = np.nan
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return dataset


def _round_energies(sets: Iterable[SizeGroupedDataset]) -> None:
    """Cast energies to float32, which holds them now that the reference energies are off."""
    for group in (group for dataset in sets for group in dataset.groups if "energy" in group):
        group["energy"] = group["energy"].astype(np.float32)


def _split(
    dataset: SizeGroupedDataset, val_fraction: float, key: Sequence[int]
) -> tuple[SizeGroupedDataset, SizeGroupedDataset]:
    """Split each group at random; the group's size and ``key`` decide, nothing else."""
    train, val = SizeGroupedDataset(), SizeGroupedDataset()
    # Rounding what has been taken so far, not each group, gives small groups their share as well.
    ends = np.rint(np.cumsum([len(group) for group in dataset.groups]) * val_fraction).astype(int)
    for (size, group), number in zip(dataset.items(), np.diff(ends, prepend=0), strict=True):
        order = np.random.default_rng([*key, size]).permutation(len(group))
        for part, rows in ((val, order[:number]), (train, order[number:])):
            if len(rows):
                part[size] = group.sample(np.sort(rows))
    return train, val


def _merge(parts: Iterable[SizeGroupedDataset]) -> SizeGroupedDataset:
    """Merge data sets of the same keys. Takes them over: their groups are no longer theirs."""
    first, *rest = [part for part in parts if len(part)] or [SizeGroupedDataset()]
    for part in rest:
        first.merge(part)
    return first
