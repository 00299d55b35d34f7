"""The runs of a folder as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from telemetry.errors import RunFolderError, RunNotFound
from telemetry.journal.segments import segments
from telemetry.metrics import UNDECLARED
from telemetry.reading.run_summary import RunSummary, summarize
from telemetry.reading.selection import choose
from telemetry.units import NO_UNIT

BEST = "val/loss"
"""What is shown if nobody says what is to be."""
AGES = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class RunTable:
    """The runs in a folder, or the one that the folder is.

    Args:
        folder: holds run folders.
        metric: whose lowest value is shown, by its full name; None for ``val/loss``.
        quick: leave that value out.

    Raises:
        RunFolderError: the folder cannot be read.
        RunNotFound: there is no run in it.
        MetricNotFound: ``metric`` was named, and no run declares it or has a value of it.
    """

    def __init__(self, folder: Path, metric: str | None = None, *, quick: bool = False) -> None:
        self._metric = "" if quick else metric or BEST
        self._looks: list[RunSummary] = []
        self._bad: list[tuple[str, str]] = []
        for each in _run_folders(folder):
            try:
                self._looks.append(summarize(each, self._metric or None))
            except Exception as error:  # noqa: BLE001 - one bad folder does not hide the others
                self._bad.append((each.name, str(error)))
        if metric is not None and self._looks and not any(look.best for look in self._looks):
            choose([metric], (name for look in self._looks for name in look.header.metrics))
        self._looks.sort(key=lambda look: (-look.time, look.folder.name))

    def lines(self, now: int) -> Iterator[str]:
        """Give the table; ``now`` is in ms since 1970, by the clock of whoever looks."""
        head = ["run", "status", "iteration", "last record", "sinks behind"]
        if self._metric:
            head.append(f"lowest {self._metric}")
        yield from _aligned([head, *(self._row(look, now) for look in self._looks)])
        for name, error in self._bad:
            yield f"{name}  cannot be read: {error}"
        if any(look.status == "unseen" for look in self._looks):
            yield "unseen: running, or ended without a word; the trainer cannot be seen from here"

    def _row(self, look: RunSummary, now: int) -> list[str]:
        age = _age(now - look.time)
        row = [look.folder.name, look.status, str(look.step), age, ", ".join(look.behind) or "-"]
        return [*row, self._best(look)] if self._metric else row

    def _best(self, look: RunSummary) -> str:
        if look.best is None:
            return "-"
        unit = look.header.metrics.get(self._metric, UNDECLARED).unit
        return f"{look.best.value:.6g}{'' if unit in NO_UNIT else f' {unit}'} at {look.best.step}"


def _run_folders(folder: Path) -> list[Path]:
    if segments(folder):
        return [folder]
    try:
        found = [folder / name for name in os.listdir(folder)]
    except OSError as error:
        msg = f"{folder} cannot be read ({error.strerror}); name the folder of the run folders"
        raise RunFolderError(msg) from error
    # os.path: a link that leads nowhere is no folder, and no error.
    runs = [each for each in found if os.path.isdir(each) and _may_be_run(each)]  # noqa: PTH112
    if not runs:
        msg = f"no runs in {folder}: none of its folders holds a journal-<k>.jsonl"
        raise RunNotFound(msg)
    return sorted(runs)


def _may_be_run(folder: Path) -> bool:
    try:
        return bool(segments(folder))
    except RunFolderError:
        # It is to show that there is something that cannot be read.
        return True


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _age(ms: int) -> str:
    seconds = max(0, ms // 1000)
    size, unit = next(age for age in AGES if seconds >= age[0] or age[0] == 1)
    return f"{seconds // size} {unit} ago"
