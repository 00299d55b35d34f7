"""Check the data of a run before it is opened, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aimnet2mult.train.plan import Plan, echo
from telemetry.run_folder.atomic_write import atomic_write

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config
    from aimnet2mult.data.report import Report

__all__ = ["SKIPPED_FILE", "check_data", "write_skipped"]

SKIPPED_FILE = "skipped-structures.csv"
"""File in the run folder with the place and the problem of each structure that is left out."""


def check_data(config: Config, runs: Path, *, resumes: bool, max_element: int, build_cache: bool = True) -> Report:
    """Check the data files of a run, and return which structures to leave out.

    A run that resumes keeps its structures, since a run of an earlier version may contain bad ones: they are only
    warned about.

    Args:
        config: the configuration of the run.
        runs: the folder of the runs.
        resumes: whether the run continues after a checkpoint.
        max_element: largest atomic number that the model supports.
        build_cache: whether to build caches of large files that have none.

    Raises:
        ConfigError: a unit is invalid.
        DataError: the data are unusable; the message has all problems.
    """
    from aimnet2mult.data.checks import check_files
    from aimnet2mult.data.file_format import FileFormat
    from aimnet2mult.train.data_cache import find_caches
    from aimnet2mult.train.data_progress import progress

    data = config.data
    files = [Path(data.fidelity_datasets[index]) for index in sorted(data.fidelity_datasets)]
    others = [Path(path) for path in (*data.val_fidelity_datasets.values(), *data.test_fidelity_datasets.values())]
    known, caches = find_caches(config, [*files, *others], runs, max_element=max_element, build=build_cache)
    report = check_files(
        files,
        others,
        labels=config.labels,
        required=() if data.on_missing_label == "drop" else config.labels,
        file_format=FileFormat.from_config(config),
        min_distance=data.min_distance,
        max_element=max_element,
        known=known,
        progress=progress,
    )
    report.caches = caches
    if len(report.absent) == len(config.labels) and not len(report.errors):
        names = ", ".join(data.y)
        report.errors.add("missing labels", [f"no data set has any of the labels {names}; give names with data.keys"])
    for line in report.warnings.lines():
        _warn(line)
    skip = data.on_bad_structure == "skip"
    report.raise_errors("keep" if resumes and not skip else data.on_bad_structure)
    if skip and report.bad_rows:
        _warn(f"bad structures left out: {report.bad_count:,}; {SKIPPED_FILE} in the run folder lists them")
    elif resumes:
        for line in report.bad_structures.lines():
            _warn(line)
        report.bad_rows.clear()
    return report


def write_skipped(plan: Plan) -> None:
    """Write the list of structures that are left out to the run folder, if there are any."""
    if plan.report is not None and plan.report.bad_rows:
        atomic_write(plan.folder / SKIPPED_FILE, plan.report.csv().encode())


def _warn(line: str) -> None:
    echo(f"warning: {line}", err=True)
