"""Loading of the data of a training run: one file per fidelity, shifted by reference energies, split and merged."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from aimnet2mult.data.data_files import (
    DataFile,
    OpenStores,
    Pieces,
    build_dataset,
    check_or_raise,
    find_content,
    load_small,
    open_file_rows,
)
from aimnet2mult.data.dataset import RowGroup
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.label_summary import Summary, summarize
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.data.places import Places
from aimnet2mult.data.reference_energies import Sae, check_references, fit_sae, read_sae
from aimnet2mult.data.report import SkippedRows
from aimnet2mult.data.row_store import RowStore
from aimnet2mult.data.split import FileSplit, Part, find_split, read_split, split_at_random
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["load_data"]

MIN_BATCHES_PER_GROUP = 8
"""Minimum size of a group in batches, as in aimnet's trainer."""
KEYS = {
    Part.TRAIN: "data.fidelity_datasets",
    Part.VAL: "data.val_fidelity_datasets",
    Part.TEST: "data.test_fidelity_datasets",
}
"""The setting that names the files of each part."""

Files = dict[Part, dict[int, DataFile]]


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
    contents: Mapping[str, FileContent] | None = None,
    check_checksums: Callable[[Mapping[str, int]], None] = lambda _: None,
    in_memory_gb: float = np.inf,
    open_stores: OpenStores = open_file_rows,
) -> MixedData:
    """Open one file per fidelity, subtract the reference energies, split and merge.

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
        contents: What the checks found in the files, by path; otherwise, the files are read once more.
        check_checksums: Function that raises an error if the files do not have the expected `MixedData.checksums`.
        in_memory_gb: Size of all structures in GB up to which they are read into memory.
        open_stores: Function that opens the groups of a file.

    Raises:
        DataError: A file cannot be used, a label is in none of them, a part would be empty although it was requested,
            or the split file is of other files.
    """
    if not files:
        raise DataError("no data set is given")
    file_format = file_format or FileFormat()
    given = {Part.TRAIN: dict(enumerate(files)), Part.VAL: dict(val_files or {}), Part.TEST: dict(test_files or {})}
    fractions = {
        Part.VAL: 0.0 if val_files else val_fraction,
        Part.TEST: 0.0 if test_files else test_fraction,
    }
    _check_fractions(fractions)
    if skipped is None:
        others = (*given[Part.VAL].values(), *given[Part.TEST].values())
        report = check_or_raise(files, others, labels=labels, required=labels, file_format=file_format)
        skipped, contents = {}, report.contents
    found = {
        path: find_content(path, labels, file_format, skipped, (contents or {}).get(str(path)))
        for paths in given.values()
        for path in paths.values()
    }
    opened = _open(given, found, lambda path: open_stores(path, found[path][0], labels, file_format))
    checksums = _checksums(opened, labels)
    check_checksums(checksums)
    training = opened[Part.TRAIN].values()
    known = tuple(_known_labels(file, labels) for file in training)
    saes = _all_references(opened, known, sae_files or {})
    splits, source = _split(opened, fractions, seed, split_file)
    _check_splits(splits, source, fractions if split_file is None else {})
    pieces = _select(opened, splits, saes)
    unmerged = [build_dataset(pieces[part], labels) for part in (Part.VAL, Part.TEST)]
    merged = build_dataset(
        pieces[Part.TRAIN], labels, min_size=MIN_BATCHES_PER_GROUP * batch_size, mode_atoms=batch_mode == "atoms"
    )
    train, val, test = load_small([merged, *unmerged], in_memory_gb)
    return MixedData(
        train=train,
        val=val,
        test=test,
        train_counts=_count(opened, splits, Part.TRAIN),
        val_counts=_count(opened, splits, Part.VAL),
        test_counts=_count(opened, splits, Part.TEST),
        labels=known,
        saes=saes,
        elements=tuple(_elements(file, split) for file, split in zip(training, splits, strict=True)),
        summaries=tuple(_summarize(opened, i, sae) for i, sae in enumerate(saes)),
        size=train.nbytes + val.nbytes + test.nbytes,
        in_memory=not any(isinstance(group, RowGroup) for group in train.groups),
        places=_places(opened),
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


def _open(
    given: Mapping[Part, Mapping[int, Path]],
    found: Mapping[Path, tuple[FileContent, bool]],
    open_stores: Callable[[Path], Sequence[RowStore]],
) -> Files:
    """Open the files of all parts, and number their structures."""
    opened: Files = {part: {} for part in Part}
    start = 0
    for part, paths in given.items():
        for fidelity, path in paths.items():
            content, without_bad = found[path]
            opened[part][fidelity] = DataFile(
                path=path,
                fidelity=fidelity,
                content=content,
                without_bad=without_bad,
                stores=open_stores(path),
                start=start,
            )
            start += content.rows
    return opened


def _checksums(opened: Files, labels: Sequence[Label]) -> dict[str, int]:
    return {
        f"{KEYS[part]}.{fidelity}": file.content.checksum(labels, fidelity, without_bad=file.without_bad)
        for part, of_part in opened.items()
        for fidelity, file in of_part.items()
    }


def _places(opened: Files) -> Places:
    files = [file for of_part in opened.values() for file in of_part.values()]
    return Places([segment for file in files for segment in file.content.segments(file.path)])


def _known_labels(file: DataFile, labels: Sequence[Label]) -> tuple[Label, ...]:
    return tuple(label for label in labels if file.content.known(label.name, without_bad=file.without_bad))


def _all_references(
    opened: Files, known: Sequence[Sequence[Label]], given: Mapping[int, Path | Sae]
) -> tuple[Sae, ...]:
    """Return the reference energies by fidelity, which must cover all files."""
    saes = tuple(
        _references(file, labels, given.get(file.fidelity))
        for file, labels in zip(opened[Part.TRAIN].values(), known, strict=True)
    )
    for part in (Part.VAL, Part.TEST):
        for fidelity, file in opened[part].items():
            if saes[fidelity]:
                check_references(file.content, file.kept, saes[fidelity], file.path)
    return saes


def _references(file: DataFile, known: Sequence[Label], given: Path | Sae | None) -> Sae:
    """Return the reference energies of a training file: given, read from a file, or fitted; empty without energies."""
    if not any(label.name == "energy" for label in known):
        return {}
    if given is None:
        structures = file.kept & np.isfinite(file.content.energy)
        sae = fit_sae(file.content.compositions(structures), file.content.energy[structures], file.path)
    else:
        sae = read_sae(given) if isinstance(given, Path) else given
    check_references(file.content, file.kept, sae, file.path)
    return sae


def _split(
    opened: Files, fractions: Mapping[Part, float], seed: int, split_file: Path | None
) -> tuple[tuple[FileSplit, ...], str]:
    """Return the splits of the training files, and what they follow from, for messages."""
    training = opened[Part.TRAIN].values()
    wholes = [FileSplit.all_training(file.content, without_bad=file.without_bad) for file in training]
    if split_file is None:
        splits = tuple(
            split_at_random(file.content, whole, fractions, (seed, file.fidelity))
            for file, whole in zip(training, wholes, strict=True)
        )
        return splits, _describe_fractions(fractions)
    stored = read_split(split_file)
    splits = tuple(
        find_split(stored, whole, file.fidelity, data=file.path, file=split_file)
        for file, whole in zip(training, wholes, strict=True)
    )
    for part in (Part.VAL, Part.TEST):
        if opened[part] and any(split.count(part) for split in splits):
            raise DataError(
                f"{KEYS[part]} is set, but the split in {split_file} has such structures already; omit either"
            )
    return splits, f"the split in {split_file}"


def _select(opened: Files, splits: Sequence[FileSplit], saes: Sequence[Sae]) -> dict[Part, list[Pieces]]:
    """Return the pieces of each part, file by file."""
    training = opened[Part.TRAIN].values()
    pieces = {
        part: [
            file.pieces(split.parts == part, saes[file.fidelity]) for file, split in zip(training, splits, strict=True)
        ]
        for part in Part
    }
    for part in (Part.VAL, Part.TEST):
        pieces[part] += [file.pieces(file.kept, saes[file.fidelity]) for file in opened[part].values()]
    return pieces


def _count(opened: Files, splits: Sequence[FileSplit], part: Part) -> tuple[int, ...]:
    """Return the number of structures of a part by fidelity."""
    counts = [split.count(part) for split in splits]
    for fidelity, file in opened[part].items() if part != Part.TRAIN else ():
        counts[fidelity] += int(np.count_nonzero(file.kept))
    return tuple(counts)


def _elements(file: DataFile, split: FileSplit) -> frozenset[int]:
    """Return the atomic numbers in the training structures of a file."""
    used = np.unique(file.content.composition[split.parts == Part.TRAIN])
    found = file.content.counts[used].any(axis=0)
    return frozenset(z for z, is_found in zip(file.content.elements, found, strict=True) if is_found)


def _summarize(opened: Files, fidelity: int, sae: Sae) -> Summary:
    files = [of_part[fidelity] for of_part in opened.values() if fidelity in of_part]
    return summarize([(file.content, file.without_bad, file.kept) for file in files], sae)


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
