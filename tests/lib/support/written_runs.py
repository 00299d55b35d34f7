"""Run folders written record by record, as input for commands and functions that read runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.segment_files import run_record
from telemetry import Alert, Metric, Status
from telemetry.journal.codec import encode
from telemetry.journal.segments import segment_path
from telemetry.records import SEQ_PER_SEGMENT, AnyRecord, Blob, Histogram, RunUpdate
from telemetry.run_folder.blobs import blob_path
from telemetry.sink_api import Closed, Resumed, Scalars

METRICS = {
    "train/loss": Metric(label="loss"),
    "train/E_rmse": Metric(unit="kcal/mol", label="RMSE of energy"),
    "train/lr": Metric(label="learning rate"),
    "val/loss": Metric(label="loss"),
    "val/E_rmse": Metric(unit="kcal/mol", label="RMSE of energy"),
    "val/gfn1/E_rmse": Metric(unit="kcal/mol", label="RMSE of energy, gfn1"),
}
NOON = 1_760_000_000_000
"""Time of iteration 0 in milliseconds since 1970; each iteration takes one second."""


class WrittenRun:
    """A run folder; each call appends to its journal. It has no trainer, so its status is ``unseen`` until closed."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.folder = folder
        self._fields = {"run_id": folder.name, "name": folder.name, "metrics": METRICS} | fields
        self._segment = -1
        folder.mkdir(parents=True)
        self.begin()

    @property
    def journal(self) -> Path:
        """The segment being written."""
        return segment_path(self.folder, self._segment)

    @property
    def last(self) -> int:
        """Sequence number of the last record."""
        return self._next - 1

    def begin(self, resume_step: int | None = None, **fields: Any) -> None:
        """Start a segment: of a new attempt if ``resume_step`` is given, otherwise as after a disk fault."""
        self._segment += 1
        self._next = self._segment * SEQ_PER_SEGMENT
        self._add(run_record(self._segment, **self._fields | fields))
        if resume_step is not None:
            self.resume(resume_step)

    def resume(self, step: int) -> None:
        self._add(Resumed(seq=self._next, time=NOON, step=step, attempt=self._segment + 1))

    def point(self, name: str, step: int, value: float, *, seq: int | None = None, time: int | None = None) -> None:
        """Append a record with one value."""
        stream, _, metric = name.partition("/")
        self.points(stream, step, {metric: value}, seq=seq, time=time)

    def points(
        self,
        stream: str,
        step: int,
        values: dict[str, float],
        *,
        seq: int | None = None,
        time: int | None = None,
    ) -> None:
        """Append a record of a stream."""
        number = self._next if seq is None else seq
        time = NOON + 1000 * step if time is None else time
        record = Scalars(seq=number, time=time, stream=stream, step=step, values=values)
        self._add(record, counts=seq is None)

    def alert(self, step: int, title: str, **what: Any) -> None:
        self._add(Alert(seq=self._next, time=NOON + 1000 * step, step=step, title=title, **what))

    def update(self, **added: Any) -> None:
        """Add metrics or parameters to the description of the run."""
        self._add(RunUpdate(seq=self._next, time=NOON, **added))

    def media(
        self, kind: Callable[..., AnyRecord], name: str, step: int, content: bytes = b"", suffix: str = "", **what: Any
    ) -> None:
        """Append an image, table, text, histogram or artifact; those with content have a blob."""
        if kind is not Histogram:
            blob = Blob(sha256=hashlib.sha256(content).hexdigest(), size=len(content), suffix=suffix)
            path = blob_path(self.folder, blob)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            what["blob"] = blob
        self._add(kind(seq=self._next, time=NOON + 1000 * step, name=name, step=step, **what))

    def close(self, status: Status = "finished") -> None:
        self._add(Closed(seq=self._next, time=NOON + 1_000_000, status=status))

    def raw(self, data: bytes) -> None:
        """Append bytes unchanged."""
        with self.journal.open("ab") as file:
            file.write(data)

    def _add(self, record: AnyRecord, *, counts: bool = True) -> None:
        self.raw(encode(record))
        self._next += counts


def add_training(run: WrittenRun, factor: float = 1.0) -> None:
    """Append 2000 iterations of a training with validations; ``factor`` scales the losses."""
    for step in range(100, 2001, 100):
        run.points("train", step, {"loss": factor * math.exp(-step / 200), "E_rmse": 5 - step / 1000, "lr": 0.1})
        if not step % 500:
            run.points("val", step, {"loss": factor * math.exp(-step / 300), "E_rmse": 6.0, "gfn1/E_rmse": 7.0})
