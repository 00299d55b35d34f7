"""The structures of an evaluation: data files of the user, or a part of the data of a run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aimnet2mult.config.schema import Config
from aimnet2mult.data.checks import check_files
from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.data.data_files import DataFile, build_dataset, find_content, load_small, open_file_rows
from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.data.places import Places, counted
from aimnet2mult.data.reference_energies import check_references
from aimnet2mult.data.report import Report
from aimnet2mult.errors import ConfigError, DataError
from aimnet2mult.evaluation.request import Part
from aimnet2mult.models.saved_model import SavedModel
from aimnet2mult.quantities import Label

__all__ = ["EvaluationData", "check_data_files", "read_files", "select_part"]

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """The structures to evaluate, with energies less the reference energies, as in training."""

    datasets: Sequence[DataSet]
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
    found: dict[str, DataSet] = {name: getattr(data, name) for name in PARTS}
    if set(fidelities) != set(range(n_fidelities)):
        found = {name: dataset.select(fidelities) for name, dataset in found.items()}
    chosen = [dataset for name, dataset in found.items() if part in (name, "all") and len(dataset)]
    if not chosen:
        sizes = ", ".join(f"{name} ({len(dataset):,})" for name, dataset in found.items() if len(dataset))
        raise ConfigError(f"--split {part}: the run has no such structures; it has {sizes or 'none of this fidelity'}")
    return EvaluationData(datasets=chosen, places=data.places)


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
    opened = list(
        _open(files, fidelities, saved.labels, file_format, report if skips else replace(report, bad_rows={}))
    )
    untrained = [line for file in opened if (line := _find_untrained(file, saved))]
    if untrained and not skips:
        remedy = "; leave these structures out with data.on_bad_structure=skip"
        raise DataError("\n".join([*untrained[:-1], untrained[-1] + remedy]))
    left_out, pieces = report.bad_count, []
    for file in opened:
        trained = file.kept & ~file.content.with_others(saved.elements[file.fidelity])
        left_out += int(np.count_nonzero(file.kept & ~trained))
        # Without any, energies were not trained, so they are missing.
        energies = saved.reference_energies[file.fidelity]
        if energies:
            check_references(file.content, trained, energies, file.path)
        pieces.append(file.pieces(trained, energies))
    for line in untrained:
        warn(f"{line}; left out")
    (dataset,) = load_small([build_dataset(pieces, saved.labels)], config.data.in_memory_gb)
    if not len(dataset):
        raise DataError(f"no structures are left in {', '.join(map(str, files))}")
    places = Places([segment for file in opened for segment in file.content.segments(file.path)])
    return EvaluationData(datasets=[dataset], places=places, left_out=left_out)


def _open(
    files: Sequence[Path],
    fidelities: Sequence[int],
    labels: Sequence[Label],
    file_format: FileFormat,
    report: Report,
) -> Iterator[DataFile]:
    start = 0
    for path, fidelity in zip(files, fidelities, strict=True):
        known = report.contents.get(str(path))
        content, without_bad = find_content(path, labels, file_format, report.skipped, known)
        stores = open_file_rows(path, content, labels, file_format)
        yield DataFile(
            path=path, fidelity=fidelity, content=content, without_bad=without_bad, stores=stores, start=start
        )
        start += content.rows


def _find_untrained(file: DataFile, saved: SavedModel) -> str:
    """Return a line about the elements that the fidelity has not been trained on, or "" if there are none."""
    trained, content = saved.elements[file.fidelity], file.content
    found = file.kept & content.with_others(trained)
    if not found.any():
        return ""
    unknown = set(content.compositions(found).elements) - trained
    return (
        f"{file.path}: the model has not been trained on {join_symbols(sorted(unknown))}, in "
        f"{counted(int(found.sum()), 'structure')}; {saved.fidelity_names[file.fidelity]} has been trained on "
        f"{join_symbols(sorted(trained))}"
    )
