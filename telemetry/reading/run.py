"""A run as its folder tells it: what it is, how it stands, and its curves. Nothing is written, no lease taken."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.journal.attempts import first_record
from telemetry.journal.reader import JournalReader, Skipped, read_header, read_metrics
from telemetry.metrics import UNDECLARED
from telemetry.plugins.optional_imports import optional_import
from telemetry.reading.curve import Curve, Points
from telemetry.records import SEQ_PER_SEGMENT, Alert, AnyRecord, Closed, Resumed, RunRecord, Scalars, Status
from telemetry.run_folder.heartbeat import TrainerLivenessProbe
from telemetry.run_folder.run_status import RunStatus, run_status

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was read of a run.

    Attributes:
        folder: the run folder.
        header: the newest attempt's run record: name, parameters, versions, metrics.
        status: how the run stands; ``unseen`` where the journal does not say and the trainer cannot be seen from here.
        curves: by full name (``val/E_rmse``), those that have points, in the order of their declaration.
        alerts: in the order of the journal.
        skipped: what could not be read, and what was passed over.
    """

    folder: Path
    header: RunRecord
    status: RunStatus
    curves: Mapping[str, Curve]
    alerts: list[Alert]
    skipped: Skipped

    def frame(self) -> pd.DataFrame:
        """Give the curves as a pandas DataFrame, one row a value.

        The columns are those of ``telemetry export --all`` without ``seq``: run, stream, step, time (as datetime64),
        name, value, unit, superseded. Unless superseded points were asked for, a step has one value of each metric, and
        ``frame.pivot(index="step", columns="name", values="value")`` has a column for each.

        Raises:
            PackageNotInstalled: pandas is not installed.
        """
        with optional_import("frame()", "pandas"):
            import pandas as pd
        import numpy as np

        curves = list(self.curves.values())
        lengths = [len(curve) for curve in curves]

        def spread(texts: list[str]) -> object:
            return np.repeat(np.array(texts, dtype=object), lengths)

        def joined(column: str, dtype: str) -> object:
            # Given in full: there may be no curve at all.
            return np.concatenate([np.empty(0, dtype), *(getattr(curve, column) for curve in curves)])

        return pd.DataFrame(
            {
                "run": spread([self.header.run_id] * len(curves)),
                "stream": spread([curve.name.partition("/")[0] for curve in curves]),
                "step": joined("steps", "int64"),
                "time": joined("times", "datetime64[ms]"),
                "name": spread([curve.name for curve in curves]),
                "value": joined("values", "float64"),
                "unit": spread([curve.unit for curve in curves]),
                "superseded": joined("superseded", "bool"),
            }
        )


def read_run(path: str | os.PathLike[str], *, superseded: bool = False) -> Run:
    """Read a run from its folder: finished, running, killed or damaged, of this host or another.

    Args:
        path: the run folder.
        superseded: also give the points and alerts that a later attempt has superseded (see ``Curve.superseded``).

    Raises:
        RunNotFound: there is no run in the folder.
        JournalError: it was written by a newer version.
        RunFolderError: the folder, or a file of the journal in it, cannot be read.
    """
    reader = RunReader(Path(path), superseded=superseded)
    reader.read(live=False)
    return reader.run()


class RunReader:
    """Read a run that may still grow, bit by bit; ``run`` gives what there is so far.

    Raises:
        RunNotFound, JournalError, RunFolderError: see ``read_run``.
    """

    def __init__(self, folder: Path, *, superseded: bool = False) -> None:
        self._folder = folder
        self._header = read_header(folder)
        self._keep = superseded
        self._journal = JournalReader(folder, superseded=superseded)
        self._watch = TrainerLivenessProbe(folder)
        self._points: dict[str, Points] = {}
        self._alerts: list[Alert] = []
        self._closed: Status | None = None

    @property
    def status(self) -> RunStatus:
        """How the run stands."""
        return run_status(self._closed, self._watch)

    def read(self, *, live: bool) -> bool:
        """Read what has come; say whether there was anything.

        Args:
            live: as ``JournalReader.read`` has it.

        Raises:
            RunFolderError: a file is there and cannot be read; the next call tries again.
        """
        new = False
        while batch := self._journal.read(_BATCH, live=live):
            new = True
            for record in batch:
                self._take(record)
        return new

    def _take(self, record: AnyRecord) -> None:
        self._closed = record.status if isinstance(record, Closed) else None
        superseded = self._keep and self._journal.is_superseded(record)
        if isinstance(record, Scalars):
            for name, value in record.items():
                points = self._points.get(name)
                if points is None:
                    points = self._points[name] = Points()
                points.add(record.step, record.time, value, superseded=superseded)
        elif isinstance(record, Alert):
            self._alerts.append(record)
        elif isinstance(record, Resumed) and not self._keep and self._begins_attempt(record):
            self._cut(record.step)

    def _begins_attempt(self, record: Resumed) -> bool:
        return first_record(self._folder, record.seq // SEQ_PER_SEGMENT) == record

    def _cut(self, step: int) -> None:
        # Of a run that is followed, they were read before anybody knew that they would be superseded.
        for points in self._points.values():
            points.cut(step)
        self._alerts = [alert for alert in self._alerts if alert.step <= step]

    def run(self) -> Run:
        """Give what has been read so far.

        Raises:
            RunNotFound, JournalError, RunFolderError: see ``read_run``.
        """
        metrics = read_metrics(self._folder)
        curves: dict[str, Curve] = {}
        for name in dict.fromkeys([*metrics, *self._points]):
            what = metrics.get(name, UNDECLARED)
            if name in self._points:
                curve = self._points[name].curve(name=name, unit=what.unit, label=what.label)
                if curve is not None:
                    curves[name] = curve
        return Run(
            folder=self._folder,
            header=read_header(self._folder),
            status=self.status,
            curves=curves,
            alerts=list(self._alerts),
            skipped=self._journal.skipped,
        )
