"""The best validation values of a run, which sinks show next to its curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, TypeGuard

from telemetry.sink_api import VALIDATION, Record, Resumed, RunRecord, Scalars, read_history, stream_of

PREFIX = "best/"
"""Precedes the full name of a metric in the name of its best value: ``best/val/E_rmse``."""


def is_validation(record: Record) -> TypeGuard[Scalars]:
    """Return whether a record contains validation values."""
    return isinstance(record, Scalars) and record.stream == VALIDATION


class Best(NamedTuple):
    """The best finite value of a metric and the first iteration with this value."""

    value: float
    step: int


class BestValues:
    """The best values among the valid points of validation: those that no later attempt has superseded.

    Covers the main metrics with a direction; if no metric is declared as main, all metrics with a direction. Records
    before the first one that is added are read from the journal, so the values do not depend on those in the backend.

    Args:
        run: the newest run record.
        folder: the run folder.

    Attributes:
        last_step: the highest iteration of a validation so far, superseded or not.
        time: time of the newest validation or resume in ms since 1970; it increases even if the clock was set back.
    """

    def __init__(self, run: RunRecord, folder: Path) -> None:
        self._signs: dict[str, int] = {}
        # Each is better than those before it. After a resume, the last remaining one is the best again.
        self._improvements: dict[str, list[Best]] = {}
        self._folder = folder
        self._last_seq = -1
        self.last_step = self.time = 0
        self.declare(run)

    @property
    def names(self) -> list[str]:
        """The full names of the metrics."""
        return list(self._signs)

    def declare(self, run: RunRecord) -> None:
        """Apply the declarations of a newer run record; a metric has no earlier points than its declaration."""
        directed = {
            name: metric
            for name, metric in run.metrics.items()
            if stream_of(name) == VALIDATION and metric.better and f"{PREFIX}{name}" not in run.metrics
        }
        main = [name for name in directed if directed[name].main]
        self._signs = {name: -1 if directed[name].better == "higher" else 1 for name in main or directed}
        self._improvements = {name: self._improvements.get(name, []) for name in self._signs}

    def add(self, record: Record) -> bool:
        """Add the next record, and return whether it is new: one that was added before changes nothing."""
        if self._last_seq < 0:
            self._read_journal(record.seq)
        if record.seq <= self._last_seq:
            return False
        self._last_seq = record.seq
        self._add(record)
        return True

    def current(self) -> dict[str, Best]:
        """Return the best value of each metric that has one, by full name."""
        return {name: found[-1] for name, found in self._improvements.items() if found}

    def _read_journal(self, end: int) -> None:
        """Add the records before the sequence number ``end``."""
        for record in read_history(self._folder, VALIDATION) if self._signs else ():
            if record.seq < end:
                self._add(record)

    def _add(self, record: Record) -> None:
        if isinstance(record, Resumed) or is_validation(record):
            self.time = max(record.time, self.time + 1)
        if isinstance(record, Resumed):
            for found in self._improvements.values():
                while found and found[-1].step > record.step:
                    found.pop()
        elif is_validation(record):
            self.last_step = max(self.last_step, record.step)
            for name, value in record.items():
                if name in self._signs and math.isfinite(value):
                    self._add_value(name, Best(value, record.step))

    def _add_value(self, name: str, new: Best) -> None:
        found = self._improvements[name]
        if not found or self._signs[name] * new.value < self._signs[name] * found[-1].value:
            found.append(new)
