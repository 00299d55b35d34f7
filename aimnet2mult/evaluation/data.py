"""The structures of an evaluation: data files of the user, or a part of the data of a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from aimnet.data import DataGroup, SizeGroupedDataset

from aimnet2mult.config.schema import Config
from aimnet2mult.data.checks import check_files
from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.data.dataset import MixedData
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.hdf5 import read_fidelity, read_segments
from aimnet2mult.data.places import Places, counted
from aimnet2mult.data.reference_energies import apply_sae
from aimnet2mult.data.report import Report, SkippedRows
from aimnet2mult.errors import ConfigError, DataError
from aimnet2mult.evaluation.request import Part
from aimnet2mult.models.saved_model import SavedModel
from aimnet2mult.quantities import Label

__all__ = ["EvaluationData", "check_data_files", "read_files", "select_part"]

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """The structures to evaluate, with energies less the reference energies, as in training."""

    datasets: Sequence[SizeGroupedDataset]
    places: Places
    """Where the structures come from, by ``origin``."""
    left_out: int = 0
    """Number of structures that are left out because they are bad or have elements without training data."""

    @property
    def structures(self) -> int:
        """Number of structures."""
        return sum(map(len, self.datasets))


def select_part(data: MixedData, part: Part, fidelities: Sequence[int], n_fidelities: int) -> EvaluationData:
    """Return a part of the data of a run.

    Args:
        data: The data.
        part: The part, or all of them.
        fidelities: Indices of the fidelities to evaluate.
        n_fidelities: Number of fidelities.

    Raises:
        ConfigError: The part has no structures.
    """
    found: dict[str, SizeGroupedDataset] = {name: getattr(data, name) for name in PARTS}
    if set(fidelities) != set(range(n_fidelities)):
        found = {name: _filter(dataset, fidelities) for name, dataset in found.items()}
    chosen = [dataset for name, dataset in found.items() if part in (name, "all") and len(dataset)]
    if not chosen:
        sizes = ", ".join(f"{name} ({len(dataset):,})" for name, dataset in found.items() if len(dataset))
        raise ConfigError(f"--split {part}: the run has no such structures; it has {sizes or 'none of this fidelity'}")
    return EvaluationData(datasets=chosen, places=data.places)


def _filter(dataset: SizeGroupedDataset, fidelities: Sequence[int]) -> SizeGroupedDataset:
    return _select(dataset, lambda group: np.isin(group["fidelity"], fidelities))


def _select(dataset: SizeGroupedDataset, choose: Callable[[DataGroup], npt.ArrayLike]) -> SizeGroupedDataset:
    selected = SizeGroupedDataset()
    for size, group in dataset.items():
        rows = np.flatnonzero(choose(group))
        if len(rows):
            selected[size] = group.sample(rows)
    return selected


def check_data_files(files: Sequence[Path], saved: SavedModel, config: Config, warn: Callable[[str], object]) -> Report:
    """Check data files as training does, except that labels may be missing.

    Args:
        files: The files.
        saved: The model.
        config: The settings.
        warn: Called with each warning.

    Raises:
        DataError: The files are unusable; the message has all problems.
    """
    report = check_files(
        files,
        labels=saved.labels,
        file_format=FileFormat.from_config(config),
        min_distance=config.data.min_distance,
    )
    for line in report.warnings.lines():
        warn(line)
    report.raise_errors(config.data.on_bad_structure)
    return report


def read_files(
    files: Sequence[Path],
    fidelities: Sequence[int],
    saved: SavedModel,
    config: Config,
    *,
    report: Report,
    warn: Callable[[str], object],
) -> EvaluationData:
    """Read data files.

    Structures with elements that the model has not been trained on are errors, like bad structures, or left out with
    ``data.on_bad_structure=skip``.

    Args:
        files: The files.
        fidelities: Index of the fidelity of each file.
        saved: The model.
        config: The settings.
        report: The result of `check_data_files`.
        warn: Called with each warning.

    Raises:
        DataError: There are untrained elements, or no structures are left.
    """
    file_format = FileFormat.from_config(config)
    skips = config.data.on_bad_structure == "skip"
    skipped: SkippedRows = report.skipped if skips else {}
    places = Places([segment for path in files for segment in read_segments(path, file_format)])
    datasets = list(_read(files, fidelities, saved.labels, file_format, skipped))
    untrained = _find_untrained(datasets, fidelities, saved, files)
    if untrained and not skips:
        remedy = "; leave these structures out with data.on_bad_structure=skip"
        raise DataError("\n".join([*untrained[:-1], untrained[-1] + remedy]))
    left_out = report.bad_count
    for index, fidelity in enumerate(fidelities):
        trained = _trained_only(datasets[index], saved.elements[fidelity])
        left_out += len(datasets[index]) - len(trained)
        datasets[index] = trained
        _subtract_references(trained, saved.reference_energies[fidelity], files[index])
    for line in untrained:
        warn(f"{line}; left out")
    merged = _merge(datasets)
    if not len(merged):
        raise DataError(f"no structures are left in {', '.join(map(str, files))}")
    return EvaluationData(datasets=[merged], places=places, left_out=left_out)


def _read(
    files: Sequence[Path],
    fidelities: Sequence[int],
    labels: Sequence[Label],
    file_format: FileFormat,
    skipped: SkippedRows,
) -> Iterator[SizeGroupedDataset]:
    start = 0
    for path, fidelity in zip(files, fidelities, strict=True):
        dataset = read_fidelity(path, labels=labels, fidelity=fidelity, file_format=file_format, skipped=skipped)
        for group in dataset.groups:
            group["origin"] += start
        start += sum(segment.rows for segment in read_segments(path, file_format))
        yield dataset


def _find_untrained(
    datasets: Sequence[SizeGroupedDataset], fidelities: Sequence[int], saved: SavedModel, files: Sequence[Path]
) -> list[str]:
    """Return a line for each file with elements that the fidelity has not been trained on."""
    lines = []
    for dataset, fidelity, path in zip(datasets, fidelities, files, strict=True):
        unknown: set[int] = set()
        count = 0
        for group in dataset.groups:
            wrong = ~np.isin(group["numbers"], [0, *saved.elements[fidelity]])
            unknown |= set(np.unique(group["numbers"][wrong]).tolist())
            count += int(wrong.any(axis=1).sum())
        if unknown:
            trained = join_symbols(sorted(saved.elements[fidelity]))
            lines.append(
                f"{path}: the model has not been trained on {join_symbols(sorted(unknown))}, in "
                f"{counted(count, 'structure')}; {saved.fidelity_names[fidelity]} has been trained on {trained}"
            )
    return lines


def _trained_only(dataset: SizeGroupedDataset, elements: frozenset[int]) -> SizeGroupedDataset:
    return _select(dataset, lambda group: ~np.isin(group["numbers"], [0, *elements], invert=True).any(axis=1))


def _subtract_references(dataset: SizeGroupedDataset, energies: Mapping[int, float], path: Path) -> None:
    """Subtract the reference energies of the model; without any, energies were not trained, so they are missing."""
    groups = [group for group in dataset.groups if "energy" in group]
    if energies and groups:
        apply_sae(dataset, energies, path)
    for group in groups:
        if not energies:
            group["energy"][:] = np.nan
        # As in training.
        group["energy"] = group["energy"].astype(np.float32)


def _merge(datasets: Sequence[SizeGroupedDataset]) -> SizeGroupedDataset:
    first, *rest = [dataset for dataset in datasets if len(dataset)] or [SizeGroupedDataset()]
    for dataset in rest:
        first.merge(dataset)
    return first
