"""The result of checking data: problems, each with its place, and a summary of every file."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from aimnet2mult.data.places import Segment
from aimnet2mult.errors import DataError
from telemetry.printable import csv_text

if TYPE_CHECKING:
    from aimnet2mult.data.file_content import FileContent

__all__ = ["MAX_LISTED", "FileSummary", "Problems", "Report", "SkippedRows"]

MAX_LISTED = 20
"""Number of problems of a kind that are listed; the others are only counted."""

Rows = npt.NDArray[np.int64]

SkippedRows = Mapping[tuple[str, str], Rows]
"""Rows to leave out, by path and group, in ascending order."""


@dataclass(kw_only=True)
class Problems:
    """Problems by kind: the number of each kind, and the first ones as text."""

    counts: dict[str, int] = field(default_factory=dict)
    listed: dict[str, list[str]] = field(default_factory=dict)
    """A line for each of the first problems of a kind."""

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, kind: str, lines: Iterable[str], count: int = 1, *, limit: int = MAX_LISTED) -> None:
        """Add ``count`` problems of a kind; of ``lines``, one for each, only those that are listed are read."""
        listed = self.listed.setdefault(kind, [])
        self.counts[kind] = self.counts.get(kind, 0) + count
        listed.extend(islice(lines, max(0, limit - len(listed))))

    def merge(self, other: "Problems") -> None:
        """Add the problems of another list."""
        for kind, lines in other.listed.items():
            self.add(kind, lines, other.counts[kind])

    def lines(self) -> list[str]:
        """Return one line per problem, up to the limit of each kind, and the number of the others."""
        lines = []
        for kind, listed in self.listed.items():
            more = self.counts[kind] - len(listed)
            lines += [*listed, *([f"and {more:,} more: {kind}"] if more else [])]
        return lines


@dataclass(kw_only=True)
class FileSummary:
    """What a file contains; ranges do not include bad structures."""

    path: str
    groups: int = 0
    structures: int = 0
    atoms: int = 0
    elements: list[int] = field(default_factory=list)
    """Atomic numbers, in ascending order."""
    labels: dict[str, int] = field(default_factory=dict)
    """Number of structures with each label that is in the file."""
    other_arrays: list[str] = field(default_factory=list)
    """Names of the arrays that are not read."""
    energies: str = ""
    """Range and RMS of the energies after subtracting fitted reference energies."""
    force_rms: float | None = None
    """Root mean square of the force components, in eV/Å."""
    bad_structures: int = 0
    """Number of structures that must not be trained on."""


@dataclass(kw_only=True)
class Report:
    """The result of checking files."""

    files: list[FileSummary] = field(default_factory=list)
    errors: Problems = field(default_factory=Problems)
    """Problems of whole files, groups and arrays."""
    bad_structures: Problems = field(default_factory=Problems)
    """Problems of structures that can be left out."""
    warnings: Problems = field(default_factory=Problems)
    absent: list[str] = field(default_factory=list)
    """Names of the labels that no training file contains."""
    bad_rows: dict[tuple[str, str], dict[str, list[Rows]]] = field(default_factory=dict)
    """Rows of the structures that must not be trained on, by path and group and then by kind of problem."""
    contents: dict[str, "FileContent"] = field(default_factory=dict)
    """What the checks found in each file, by path."""
    caches: dict[str, Path | None] = field(default_factory=dict)
    """The files that are not read into memory, by path, with the folder of the cache of each; None if it has none."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without contents, which may be large."""
        return {**vars(self), "contents": {}}

    @property
    def cache_folders(self) -> dict[str, Path]:
        """Folder of the cache of each file that has one, by path."""
        return {path: folder for path, folder in self.caches.items() if folder is not None}

    def without_details(self) -> "Report":
        """Return the report with what is needed of the contents to load the data."""
        return replace(self, contents={path: content.without_details() for path, content in self.contents.items()})

    def merge(self, other: "Report") -> None:
        """Add the checks of another file."""
        self.files += other.files
        self.errors.merge(other.errors)
        self.bad_structures.merge(other.bad_structures)
        self.warnings.merge(other.warnings)
        self.bad_rows |= other.bad_rows

    @property
    def ok(self) -> bool:
        """Whether there are no errors; there may be warnings."""
        return not (len(self.errors) or self.bad_rows)

    @property
    def skipped(self) -> SkippedRows:
        """The rows of the bad structures."""
        return {key: np.unique(np.concatenate([*chain(*kinds.values())])) for key, kinds in self.bad_rows.items()}

    @property
    def bad_count(self) -> int:
        """Number of bad structures."""
        return sum(map(len, self.skipped.values()))

    @property
    def useless(self) -> list[str]:
        """A line for each file all of whose structures are bad."""
        return [
            f"{summary.path}: all structures are bad; check data.units and data.keys"
            for summary in self.files
            if 0 < summary.structures == summary.bad_structures
        ]

    @property
    def error_lines(self) -> list[str]:
        """All errors, one line each."""
        return [*self.errors.lines(), *self.useless, *self.bad_structures.lines()]

    def raise_errors(self, on_bad_structure: Literal["error", "skip", "keep"] = "error") -> None:
        """Raise one exception for all errors.

        Args:
            on_bad_structure: Whether bad structures are errors, are left out, or are kept.

        Raises:
            DataError: There are errors.
        """
        useless = [] if on_bad_structure == "keep" else self.useless
        is_error = on_bad_structure == "error"
        lines = [*self.errors.lines(), *useless, *(self.bad_structures.lines() if is_error else [])]
        if not lines:
            return
        has_bad = bool(self.bad_rows) and is_error
        if len(lines) == 1:
            remedy = "; correct the structure, or leave it out with data.on_bad_structure=skip" if has_bad else ""
            raise DataError(lines[0] + remedy)
        count = len(self.errors) + len(useless) + (len(self.bad_structures) if is_error else 0)
        remedy = "; correct bad structures, or leave them out with data.on_bad_structure=skip" if has_bad else ""
        raise DataError("\n  ".join([f"the data have {count:,} problems{remedy}:", *lines]))

    def csv(self) -> str:
        """Return a table of the bad structures: file, group, row and reason.

        An apostrophe precedes the name of a file or group that a spreadsheet would evaluate as a formula.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("file", "group", "row", "reason"))
        for (path, group), kinds in self.bad_rows.items():
            reasons: dict[int, list[str]] = {}
            for kind, parts in kinds.items():
                for row in np.concatenate(parts).tolist():
                    reasons.setdefault(row, []).append(kind)
            where = csv_text(path), csv_text(group)
            writer.writerows((*where, row, "; ".join(reasons[row])) for row in sorted(reasons))
        return out.getvalue()

    def add_bad(self, segment: Segment, kind: str, rows: Rows, reasons: Iterable[str]) -> None:
        """Add structures with a kind of problem; ``reasons`` is read only as far as it is listed."""
        if not len(rows):
            return
        self.bad_rows.setdefault((str(segment.path), segment.group), {}).setdefault(kind, []).append(rows)
        places = map(segment.describe, rows.tolist())
        lines = (f"{where}: {reason}" for where, reason in zip(places, reasons, strict=False))
        self.bad_structures.add(kind, lines, len(rows))

    def warn_of_labels(self, path: str, texts: Iterable[str]) -> None:
        """Add warnings about the labels of a file."""
        for text in texts:
            self.warnings.add("labels", [f"{path}: {text}"])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain lists and dictionaries."""
        return {
            "files": [vars(summary) for summary in self.files],
            "errors": self.error_lines,
            "warnings": self.warnings.lines(),
            "bad_structures": self.bad_count,
        }
