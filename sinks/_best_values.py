"""The best validation values of a run, which sinks show next to its curves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from telemetry.sink_api import Record, Resumed, RunRecord, Scalars, read_valid_points

STREAM = "val"
"""The stream of validation."""
PREFIX = "best/"
"""Precedes the full name of a metric in the name of its best value: ``best/val/E_rmse``."""


class Best(NamedTuple):
    """The best finite value of a metric and the first iteration with this value."""

    value: float
    step: int


class BestValues:
    """The best values among the valid points of validation: those that no later attempt has superseded.

    Covers the main metrics with a direction; if no metric is declared as main, all metrics with a direction. Points
    stored before are read from the journal, so the values do not depend on what the backend has stored.

    Args:
        run: the newest run record.
        folder: the run folder.
    """

    def __init__(self, run: RunRecord, folder: Path) -> None:
        directed = {
            name: metric
            for name, metric in run.metrics.items()
            if name.startswith(f"{STREAM}/") and metric.better and f"{PREFIX}{name}" not in run.metrics
        }
        main = [name for name in directed if directed[name].main]
        self._signs = {name: -1 if directed[name].better == "higher" else 1 for name in main or directed}
        # Each is better than those before it. After a resume, the last remaining one is the best again.
        self._improvements: dict[str, list[Best]] = {name: [] for name in self._signs}
        self._folder = folder
        self._last_seq = -1

    @property
    def names(self) -> list[str]:
        """The full names of the metrics."""
        return list(self._signs)

    def add(self, records: Iterable[Record]) -> None:
        """Add records in order; those added before are ignored."""
        for record in records:
            if self._last_seq < 0:
                self._read_journal(record.seq)
            if record.seq > self._last_seq:
                self._last_seq = record.seq
                self._add(record)

    def current(self) -> dict[str, Best]:
        """Return the best value of each metric that has one, by full name."""
        return {name: found[-1] for name, found in self._improvements.items() if found}

    def _read_journal(self, end: int) -> None:
        """Add the valid points before the sequence number ``end``."""
        for record in read_valid_points(self._folder, STREAM) if self._signs else ():
            if record.seq < end:
                self._add(record)

    def _add(self, record: Record) -> None:
        if isinstance(record, Resumed):
            for found in self._improvements.values():
                while found and found[-1].step > record.step:
                    found.pop()
        elif isinstance(record, Scalars) and record.stream == STREAM:
            for name, value in record.items():
                if name in self._signs and math.isfinite(value):
                    self._add_value(name, Best(value, record.step))

    def _add_value(self, name: str, new: Best) -> None:
        found = self._improvements[name]
        if not found or self._signs[name] * new.value < self._signs[name] * found[-1].value:
            found.append(new)
