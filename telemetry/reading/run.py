"""Read a run from its folder: header, status, curves and alerts. Nothing is written and no lease is taken."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.journal.deliverable_records import DeliverableRecords
from telemetry.journal.reader import (
    JournalReader,
    Skipped,
    declared_metrics,
    read_header,
    read_metrics,
    read_run_records,
)
from telemetry.metrics import UNDECLARED, Metric, direction, possible_streams, stream_of
from telemetry.plugins.optional_imports import optional_import
from telemetry.reading.curve import Curve, CurveBuilder
from telemetry.reading.selection import select_metrics
from telemetry.records import (
    Alert,
    AnyRecord,
    Artifact,
    Closed,
    Image,
    Media,
    Resumed,
    RunRecord,
    RunUpdate,
    Scalars,
    Status,
    Table,
    Text,
    updated,
)
from telemetry.run_folder.blobs import read_blob
from telemetry.run_folder.paths import local_path
from telemetry.run_folder.run_status import RunStatus, run_status
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_BATCH = 1000
"""Records read from the journal at a time."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The contents of a run folder.

    Attributes:
        folder: the run folder.
        header: the newest attempt's run record: name, parameters, versions, metrics.
        status: status of the run; ``unseen`` if the journal does not record the end of the run and the trainer cannot
            be checked from here.
        curves: curves keyed by full name (``val/E_rmse``), in order of declaration; only metrics that have points.
        alerts: alerts in journal order.
        media: images, tables, texts, histograms and artifacts in journal order.
        skipped: counts of unreadable and skipped records.
        metrics: the metrics that any attempt declared, by full name; later declarations override earlier ones.
    """

    folder: Path
    header: RunRecord
    status: RunStatus
    curves: Mapping[str, Curve]
    alerts: list[Alert]
    media: list[Media]
    skipped: Skipped
    metrics: Mapping[str, Metric]

    def blob(self, record: Text | Table | Image | Artifact) -> bytes:
        """Return the content of one of ``media``; a histogram has none.

        Raises:
            SinkRejected: the content is missing or has changed.
            OSError: it cannot be read.
        """
        return read_blob(self.folder, record.blob)

    def frame(self) -> pd.DataFrame:
        """Return the curves as a pandas DataFrame, one row per value.

        The columns are those of ``telemetry export --all`` without ``seq``: run, stream, step, time (as datetime64),
        name, value, unit, superseded. One column per metric, with the last value of each step::

            frame.drop_duplicates(["name", "step"], keep="last").pivot(index="step", columns="name", values="value")

        A step has several values if its point was published more than once, or if superseded points were requested.

        Raises:
            PackageNotInstalled: pandas is not installed.
        """
        with optional_import("frame()", "pandas"):
            from pandas import DataFrame
        import numpy as np

        curves = list(self.curves.values())
        lengths = [len(curve) for curve in curves]

        def repeated(texts: list[str]) -> object:
            return np.repeat(np.array(texts, dtype=object), lengths)

        def concatenated(column: str, dtype: str) -> object:
            # The empty array fixes the dtype even if there are no curves.
            return np.concatenate([np.empty(0, dtype), *(getattr(curve, column) for curve in curves)])

        return DataFrame(
            {
                "run": repeated([self.header.run_id] * len(curves)),
                "stream": repeated([stream_of(curve.name) for curve in curves]),
                "step": concatenated("steps", "int64"),
                "time": concatenated("times", "datetime64[ms]"),
                "name": repeated([curve.name for curve in curves]),
                "value": concatenated("values", "float64"),
                "unit": repeated([curve.unit for curve in curves]),
                "superseded": concatenated("superseded", "bool"),
            }
        )


def read_run(path: str | os.PathLike[str], *, superseded: bool = False, metrics: Sequence[str] = ()) -> Run:
    """Read a run from its folder. The run may be finished, running, killed or damaged, on this or another machine.

    Args:
        path: the run folder.
        superseded: whether to include the points and alerts superseded by a later attempt (see ``Curve.superseded``).
        metrics: the metrics to read: full names, names without the stream, or patterns of either (``val/*``); the
            values of other streams are not decoded, which is up to ten times as fast. By default, all are read,
            including undeclared ones. Damage to points of other streams is not counted in ``Run.skipped``.

    Raises:
        RunNotFound: the folder contains no run.
        MetricNotFound: one of ``metrics`` matches no declared metric.
        JournalError: the journal was written by a newer version.
        RunFolderError: the folder or one of its journal files cannot be read.
    """
    folder = local_path(path)
    names = None
    if metrics:
        read_header(folder)  # raises if the folder contains no readable run
        names = select_metrics(metrics, read_metrics(folder))
    reader = RunReader(folder, superseded=superseded, names=names)
    reader.read(live=False)
    return reader.run()


class RunReader:
    """Read a run incrementally while it may still grow; ``run`` returns the contents read so far.

    Args:
        folder: the run folder.
        superseded: as in ``read_run``.
        names: full names of the metrics to read; None for all. Only the streams of these metrics are decoded.

    Attributes:
        records: the valid records for sinks.
        rewound: whether a resume has superseded points read before; if some points were passed over, ``records`` is
            then only approximate.
        closed: how the newest attempt ended; None if the journal does not record it.
        time: time of the last record, in milliseconds since 1970; 0 if there is none.

    Raises:
        RunNotFound, JournalError, RunFolderError: see ``read_run``.
    """

    def __init__(self, folder: Path, *, superseded: bool = False, names: Collection[str] | None = None) -> None:
        read_header(folder)  # raises if the folder contains no readable run
        self._folder = folder
        self._keep_superseded = superseded
        self._names = None if names is None else frozenset(names)
        streams = None if names is None else {stream for name in names for stream in possible_streams(name)}
        self._journal = JournalReader(folder, superseded=superseded, streams=streams)
        self.records = DeliverableRecords()
        self.rewound = False
        self.closed: Status | None = None
        self.time = 0
        self._trainer = TrainerLivenessProbe(folder)
        self._builders: dict[str, CurveBuilder] = {}
        self._alerts: list[Alert] = []
        self._media: list[Media] = []
        self._updates: list[RunUpdate] = []

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics declared by all attempts, as in ``Run.metrics``; those added later as far as they were read."""
        return declared_metrics([*read_run_records(self._folder), *self._updates])

    @property
    def status(self) -> RunStatus:
        """Status of the run, from the records read so far and the trainer's heartbeat."""
        return run_status(self.closed, self._trainer)

    def read(self, *, live: bool) -> bool:
        """Read all new records; return whether there were any.

        Args:
            live: as in ``JournalReader.read``.

        Raises:
            RunFolderError: a file exists but cannot be read; the next call tries again.
        """
        new = False
        while batch := self._journal.read(_BATCH, live=live):
            new = True
            for record in batch:
                self._add(record)
        return new

    def _add(self, record: AnyRecord) -> None:
        self.closed = record.status if isinstance(record, Closed) else None
        self.time = record.time
        if isinstance(record, Scalars):
            self._add_points(record)
        elif isinstance(record, Alert):
            self._alerts.append(record)
        elif isinstance(record, Media):
            self._media.append(record)
        elif isinstance(record, RunUpdate):
            self._updates.append(record)
        elif isinstance(record, Resumed) and not self._keep_superseded and self._journal.starts_attempt(record):
            self._drop_after(record.step)
        self.records.add(record)

    def _add_points(self, record: Scalars) -> None:
        superseded = self._keep_superseded and self._journal.is_superseded(record)
        for name, value in record.items():
            builder = self._builders.get(name)
            if builder is None:
                if self._names is not None and name not in self._names:
                    continue
                builder = self._builders[name] = CurveBuilder()
            builder.add(record.step, record.time, value, superseded=superseded)

    def _drop_after(self, step: int) -> None:
        # In a followed run, these points were read before the resume that superseded them.
        for builder in self._builders.values():
            builder.drop_after(step)
        self.rewound |= self.records.drop_after(step)
        self._alerts = [alert for alert in self._alerts if alert.step <= step]
        self._media = [media for media in self._media if media.step <= step]

    def run(self) -> Run:
        """Return the contents read so far.

        Raises:
            RunNotFound, JournalError, RunFolderError: see ``read_run``.
        """
        metrics = self.metrics
        curves: dict[str, Curve] = {}
        for name in dict.fromkeys([*metrics, *self._builders]):
            metric = metrics.get(name, UNDECLARED)
            if name in self._builders:
                better = direction(name, metric)
                curve = self._builders[name].build(name=name, unit=metric.unit, label=metric.label, better=better)
                if curve is not None:
                    curves[name] = curve
        return Run(
            folder=self._folder,
            header=self._header(),
            status=self.status,
            curves=curves,
            alerts=list(self._alerts),
            media=list(self._media),
            skipped=self._journal.skipped,
            metrics=metrics,
        )

    def _header(self) -> RunRecord:
        header = read_header(self._folder)
        for update in self._updates:
            header = updated(header, update) if update.seq > header.seq else header
        return header
