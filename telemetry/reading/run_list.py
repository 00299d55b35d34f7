"""List the runs in a folder as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from telemetry.errors import RunNotFound, SettingError
from telemetry.journal.segments import segments
from telemetry.metrics import UNDECLARED, Direction, Metric, direction
from telemetry.reading.find_run import run_folders
from telemetry.reading.run_summary import RunSummary, summarize
from telemetry.reading.selection import select_metrics
from telemetry.units import NO_UNIT

DEFAULT_METRIC = "val/loss"
"""The metric whose best value is shown by default."""
AGE_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
"""Units of an age: length in seconds and symbol, longest first."""


class RunTable:
    """A table of the runs in a folder, newest first, or best first if a metric is given; a run folder is one run.

    Args:
        folder: folder that contains run folders, or a run folder.
        metric: full name of the metric whose best value is shown; None for ``val/loss``.
        quick: whether to omit this value.

    Raises:
        RunFolderError: the folder cannot be read.
        RunNotFound: it contains no run.
        MetricNotFound: ``metric`` was given, but no run declares it or has a value of it.
        SettingError: it has no direction.
    """

    def __init__(self, folder: Path, metric: str | None = None, *, quick: bool = False) -> None:
        self._metric = "" if quick else metric or DEFAULT_METRIC
        self._summaries: list[RunSummary] = []
        self._unreadable: list[tuple[str, str]] = []
        for run in _run_folders(folder):
            try:
                self._summaries.append(summarize(run, self._metric or None))
            except Exception as error:  # noqa: BLE001 - one bad folder must not hide the others
                self._unreadable.append((run.name, str(error)))
        if metric is not None and self._summaries and not any(summary.best for summary in self._summaries):
            declared = [name for summary in self._summaries for name in summary.header.metrics]
            if metric in declared and not self._directions():
                msg = f"--best {metric}: neither lower nor higher values of this metric are better (Metric.better)"
                raise SettingError(msg)
            select_metrics([metric], declared)
        self._summaries.sort(key=lambda summary: (-summary.time, summary.folder.name))
        self.newest = self._summaries[0].folder if self._summaries else None
        """The folder of the newest run; None if no run can be read."""
        if metric is not None:
            self._summaries.sort(key=self._rank)

    def lines(self, now: int) -> Iterator[str]:
        """Yield the lines of the table; ``now`` is in milliseconds since 1970."""
        header = ["run", "status", "iteration", "last record", "sinks behind"]
        if self._metric:
            header.append(f"{self._best_word()} {self._metric}")
        yield from _aligned([header, *(self._row(summary, now) for summary in self._summaries)])
        for name, error in self._unreadable:
            yield f"{name}  cannot be read: {error}"
        if any(summary.status == "unseen" for summary in self._summaries):
            yield "unseen: running or killed; the trainer cannot be checked from here"

    def _row(self, summary: RunSummary, now: int) -> list[str]:
        last, behind = age(now - summary.time), ", ".join(summary.behind) or "-"
        row = [summary.folder.name, summary.status, str(summary.step), last, behind]
        return [*row, self._best(summary)] if self._metric else row

    def _best_word(self) -> str:
        found = self._directions()
        return "best" if len(found) != 1 else "highest" if "higher" in found else "lowest"

    def _directions(self) -> set[Direction]:
        found = {direction(self._metric, self._declaration(summary)) for summary in self._summaries}
        return {each for each in found if each is not None}

    def _declaration(self, summary: RunSummary) -> Metric:
        return summary.header.metrics.get(self._metric, UNDECLARED)

    def _rank(self, summary: RunSummary) -> float:
        """Return a number that is smaller for better runs."""
        if summary.best is None:
            return math.inf
        return (
            -summary.best.value
            if direction(self._metric, self._declaration(summary)) == "higher"
            else summary.best.value
        )

    def _best(self, summary: RunSummary) -> str:
        if summary.best is None:
            return "-"
        unit = self._declaration(summary).unit
        return f"{summary.best.value:.6g}{'' if unit in NO_UNIT else f' {unit}'} at {summary.best.step}"


def _run_folders(folder: Path) -> list[Path]:
    if segments(folder):
        return [folder]
    if runs := run_folders(folder):
        return runs
    msg = f"no runs in {folder}: none of its folders contains a journal-<k>.jsonl"
    raise RunNotFound(msg)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def age(ms: int) -> str:
    """Return a time span in ms in words, such as ``5 min ago``."""
    seconds = max(0, ms // 1000)
    size, unit = next(age for age in AGE_UNITS if seconds >= age[0] or age[0] == 1)
    return f"{seconds // size} {unit} ago"
