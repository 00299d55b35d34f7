"""Checks of training and validation files before training, in one pass with bounded memory, without torch.

Besides blocks of rows, 25 bytes a structure are kept, or 33 for converted data, to find outliers and duplicates.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aimnet2mult.data.compositions import MAX_ELEMENT
from aimnet2mult.data.duplicates import find_duplicates
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.file_scan import FileScan
from aimnet2mult.data.layout import open_file, read_layout
from aimnet2mult.data.places import Places, counted
from aimnet2mult.data.report import FileSummary, Report
from aimnet2mult.data.structures import MIN_DISTANCE
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["check_files"]


def check_files(
    files: Sequence[Path],
    val_files: Iterable[Path] = (),
    *,
    labels: Sequence[Label],
    required: Sequence[Label] = (),
    file_format: FileFormat | None = None,
    min_distance: float = MIN_DISTANCE,
    max_element: int = MAX_ELEMENT,
) -> Report:
    """Check files, and return all problems of all of them.

    Args:
        files: Training data. Without validation files, a part of each is used for validation.
        val_files: Validation data.
        labels: Labels to check.
        required: Labels of which at least one training file must have some.
        file_format: Names and units of the arrays.
        min_distance: Smallest distance between two atoms, in Å.
        max_element: Largest atomic number that the model supports.
    """
    report, file_format = Report(), file_format or FileFormat()
    validation = tuple(val_files)
    scans: dict[Path, FileScan] = {}
    for path in map(Path, (*files, *validation)):
        # Two fidelities, or training and validation, may use the same file.
        if path not in scans:
            scans[path] = FileScan(
                path, labels, file_format, report, min_distance=min_distance, max_element=max_element
            )
            _scan(scans[path], report)
    training, rest = ([scans[Path(path)] for path in part] for part in (files, validation))
    # An array that cannot be read is reported; that its label is missing would be a second message.
    if not len(report.errors) and not report.useless:
        summaries = [scan.summary for scan in training]
        report.absent = [label.name for label in labels if not any(file.labels.get(label.name) for file in summaries)]
        _check_labels(report, required, summaries, file_format)
        _find_unlabeled(report, labels)
    _find_duplicates(report, training, rest)
    return report


def _scan(scan: FileScan, report: Report) -> None:
    path = scan.path
    try:
        with open_file(path) as file:
            layout = read_layout(path, file, scan.labels, scan.file_format)
            report.errors.add("unusable groups and arrays", layout.problems, len(layout.problems))
            scan.summary.other_arrays = list(layout.other_arrays)
            for group in layout.groups:
                scan.read(group)
    except DataError as error:
        report.errors.add("unusable files", [str(error)])
        return
    scan.finish()
    report.files.append(scan.summary)
    if not layout.problems and not any(segment.rows for segment in scan.segments):
        report.errors.add("files without structures", [f"{path} has no structures"])


def _check_labels(
    report: Report, required: Sequence[Label], training: Sequence[FileSummary], file_format: FileFormat
) -> None:
    """Report labels that no training file contains."""
    names = [label.name for label in required]
    missing = [name for name in names if name in report.absent]
    if not missing:
        return
    rest = [name for name in names if name not in missing]
    them, their = ("them", "their names") if len(missing) > 1 else ("it", "its name")
    others = sorted({name for file in training for name in file.other_arrays})
    remedies = [f"leave {them} out: data.y=[{','.join(rest)}]"] if rest else []
    if others:
        remedies.append(f"give {their} with data.keys (other arrays: {', '.join(others)})")
    else:
        remedies.append(f"give {their} with data.keys")
    what = f"label{'s' if len(missing) > 1 else ''} {', '.join(_quote(label, file_format) for label in missing)}"
    are = "are" if len(missing) > 1 else "is"
    files = list(dict.fromkeys(file.path for file in training))
    where = f"in none of the data sets {', '.join(files)}" if len(files) > 1 else f"not in the data set {files[0]}"
    report.errors.add("missing labels", [f"{what} {are} {where}; {', or '.join(remedies)}"])


def _quote(label: str, file_format: FileFormat) -> str:
    """Return a label in quotes, with its name in the files if that is another one."""
    name = file_format.name(label)
    return repr(label) if name == label else f"{label!r} (data.keys: {name!r})"


def _find_unlabeled(report: Report, labels: Sequence[Label]) -> None:
    """Warn of files without any label, unless a missing label is an error anyway."""
    if len(report.errors) or not labels:
        return
    for file in report.files:
        if file.structures > file.bad_structures and not any(file.labels.values()):
            others = f"; data.keys gives the names of labels (other arrays: {', '.join(file.other_arrays)})"
            names = " or ".join(label.name for label in labels)
            text = f"{file.path} has no {names}{others if file.other_arrays else ''}"
            report.warnings.add("files without labels", [text])


def _find_duplicates(report: Report, training: Sequence[FileScan], validation: Sequence[FileScan]) -> None:
    """Warn of structures that are, or may be after the split, both in training and in validation data."""
    scans = [*training, *validation]
    places = Places([segment for scan in scans for segment in scan.segments])
    good = np.concatenate([np.empty(0, np.bool_), *(part for scan in scans for part in scan.good)])
    owner = np.repeat(np.arange(len(scans)), [sum(map(len, scan.good)) for scan in scans])
    hashes = np.concatenate([np.empty(0, np.uint64), *(part for scan in scans for part in scan.hashes)])
    pairs = np.flatnonzero(good)[find_duplicates(hashes)]
    owners = owner[pairs]
    if validation:
        across = (owners < len(training)).sum(axis=1) == 1
        pairs, owners = pairs[across], owners[across]
    for first, second in np.unique(owners, axis=0).tolist():
        these = pairs[(owners == (first, second)).all(axis=1)]
        report.warnings.add("duplicates", [_describe_duplicates(scans[first], scans[second], these, places)])


def _describe_duplicates(first: FileScan, second: FileScan, pairs: Any, places: Places) -> str:
    number, one = len(pairs), len(pairs) == 1
    names = list(map(places.describe, pairs[0]))
    example = f"{':' if one else ', such as'} {' and '.join(names)}"
    if names[0] == names[1]:
        return f"{first.path} is given twice, so its structures may be both in training and in validation"
    if first is second:
        repeated = counted(number, "repeated structure")
        return f"{first.path}: {repeated}, which may be both in training and in validation{example}"
    are = "that is" if one else "that are"
    return f"{second.path}: {counted(number, 'structure')} {are} also in {first.path}{example}"
