"""Checks of training and validation files before training, in one pass with bounded memory, without torch.

Besides blocks of rows, up to 45 bytes a structure are kept, to find outliers and duplicates and to fit energies.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aimnet2mult.data.compositions import MAX_ELEMENT
from aimnet2mult.data.duplicates import find_duplicates
from aimnet2mult.data.file_content import FileContent
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.file_scan import FileScan, Listener
from aimnet2mult.data.layout import SizeGroup, open_file, read_layout
from aimnet2mult.data.places import Places, counted
from aimnet2mult.data.report import FileSummary, Report
from aimnet2mult.data.structures import MIN_DISTANCE
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import Label

__all__ = ["check_files", "scan_file"]

File = tuple[Path, FileContent]
Progress = Callable[[Path], AbstractContextManager[Callable[[int, int], object]]]


def _show_nothing(done: int, total: int) -> None:
    """Show no progress."""


def check_files(
    files: Sequence[Path],
    val_files: Iterable[Path] = (),
    *,
    labels: Sequence[Label],
    required: Sequence[Label] = (),
    file_format: FileFormat | None = None,
    min_distance: float = MIN_DISTANCE,
    max_element: int = MAX_ELEMENT,
    known: Mapping[str, FileContent] | None = None,
    progress: Progress = lambda _: nullcontext(_show_nothing),
) -> Report:
    """Check files, and return all problems of all of them, and what they contain.

    Args:
        files: Training data. Without validation files, a part of each is used for validation.
        val_files: Validation data.
        labels: Labels to check.
        required: Labels of which at least one training file must have some.
        file_format: Names and units of the arrays.
        min_distance: Smallest distance between two atoms, in Å.
        max_element: Largest atomic number that the model supports.
        known: What is known of some files, by path, from earlier checks with the same arguments; these are not read.
        progress: Returns, for each file that is read, a context that yields a function to call with the number of
            structures read and their total.
    """
    report, file_format = Report(), file_format or FileFormat()
    validation = tuple(map(Path, val_files))
    # Two fidelities, or training and validation, may use the same file.
    for path in dict.fromkeys((*map(Path, files), *validation)):
        content = (known or {}).get(str(path))
        if content is None:
            scan = FileScan(path, labels, file_format, min_distance=min_distance, max_element=max_element)
            with progress(path) as show:
                content = scan_file(scan, show=show)
        report.merge(content.report)
        report.contents[str(path)] = content
    training, rest = ([(path, report.contents[str(path)]) for path in map(Path, part)] for part in (files, validation))
    # An array that cannot be read is reported; that its label is missing would be a second message.
    if not len(report.errors) and not report.useless:
        summaries = [file for _, content in training for file in content.report.files]
        report.absent = [label.name for label in labels if not any(file.labels.get(label.name) for file in summaries)]
        _check_labels(report, required, summaries, file_format)
        _find_unlabeled(report, labels)
    _find_duplicates(report, training, rest)
    return report


def scan_file(
    scan: FileScan, listener: Listener | None = None, *, show: Callable[[int, int], object] = _show_nothing
) -> FileContent:
    """Check a file, and return what it contains.

    Args:
        scan: The scan, which may have been interrupted before.
        listener: Receives what is read.
        show: Called with the number of structures read and their total.
    """
    path, report = scan.path, scan.report
    try:
        with open_file(path) as file:
            layout = read_layout(path, file, scan.labels, scan.file_format)
            report.errors.add("unusable groups and arrays", layout.problems, len(layout.problems))
            scan.summary.other_arrays = list(layout.other_arrays)
            shown = _Shown(scan, sum(group.rows for group in layout.groups), show, listener)
            for group in layout.groups:
                scan.read(group, shown)
    except DataError as error:
        report.errors.add("unusable files", [str(error)])
        return scan.content()
    content = scan.finish()
    report.files.append(scan.summary)
    if not layout.problems and not content.rows:
        report.errors.add("files without structures", [f"{path} has no structures"])
    return content


@dataclass
class _Shown:
    """A listener that also shows the progress."""

    scan: FileScan
    total: int
    show: Callable[[int, int], object]
    listener: Listener | None

    def start(self, group: SizeGroup) -> None:
        if self.listener is not None:
            self.listener.start(group)

    def add(self, block: Mapping[str, Any]) -> None:
        self.show(sum(self.scan.done.values()), self.total)
        if self.listener is not None:
            self.listener.add(block)


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


def _find_duplicates(report: Report, training: Sequence[File], validation: Sequence[File]) -> None:
    """Warn of structures that are, or may be after the split, both in training and in validation data."""
    files = [*training, *validation]
    places = Places([segment for path, content in files for segment in content.segments(path)])
    good = np.concatenate([np.empty(0, np.bool_), *(content.good for _, content in files)])
    owner = np.repeat(np.arange(len(files)), [content.rows for _, content in files])
    hashes = np.concatenate([np.empty(0, np.uint64), *(content.hashes for _, content in files)])
    pairs = np.flatnonzero(good)[find_duplicates(hashes)]
    owners = owner[pairs]
    if validation:
        across = (owners < len(training)).sum(axis=1) == 1
        pairs, owners = pairs[across], owners[across]
    for first, second in np.unique(owners, axis=0).tolist():
        these = pairs[(owners == (first, second)).all(axis=1)]
        text = _describe_duplicates(files[first][0], files[second][0], these, places)
        report.warnings.add("duplicates", [text])


def _describe_duplicates(first: Path, second: Path, pairs: Any, places: Places) -> str:
    number, one = len(pairs), len(pairs) == 1
    names = list(map(places.describe, pairs[0]))
    example = f"{':' if one else ', such as'} {' and '.join(names)}"
    if names[0] == names[1]:
        return f"{first} is given twice, so its structures may be both in training and in validation"
    if first == second:
        repeated = counted(number, "repeated structure")
        return f"{first}: {repeated}, which may be both in training and in validation{example}"
    are = "that is" if one else "that are"
    return f"{second}: {counted(number, 'structure')} {are} also in {first}{example}"
