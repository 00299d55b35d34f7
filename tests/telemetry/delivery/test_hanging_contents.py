"""A content whose upload always takes too long is set aside in the end; everything else is delivered."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.telemetry_fakes import HandMadeRun
from telemetry import Settings
from telemetry.delivery.delivery import MAX_HANGS, Delivery, DeliveryOutcome
from telemetry.plugins.registry import Sink
from telemetry.records import Artifact, Blob, Record
from telemetry.run_folder.sink_progress import read_progress
from telemetry.sink_api import Opened, Scalars, SinkUnavailable, hookimpl


class SlowSink:
    """Stores points at once, and an artifact only if it is allowed to take its time."""

    requires = ()

    def __init__(self, stored: list[int], hung: threading.Event) -> None:
        self.stored, self.hung = stored, hung

    @hookimpl
    def sink_open(self) -> Opened:
        return Opened(destination="here", last_seq=max(self.stored, default=0))

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        if any(isinstance(record, Artifact) for record in records):
            assert self.hung.wait(60)
            # As if the process of the delivery had been ended.
            msg = "the upload was interrupted"
            raise SinkUnavailable(msg)
        self.stored += [record.seq for record in records if isinstance(record, Scalars)]
        return records[-1].seq

    @hookimpl
    def sink_close(self) -> None:
        pass


def deliver(folder: Path, stored: list[int]) -> DeliveryOutcome:
    """Deliver until a hook hangs or everything is delivered, as a delivery process does."""
    hung = threading.Event()
    sink: Any = SlowSink(stored, hung)
    delivery = Delivery(
        folder,
        Sink("slow", {}, None, sink),
        Settings(hook_timeout=0.05, linger=1e9),
        on_hang=hung.set,
        stop=hung.is_set,
        wait=lambda seconds: None,
        log=lambda line: None,
    )
    assert delivery.lease.try_acquire()
    return delivery.run()


def test_a_content_that_always_takes_too_long_is_set_aside_and_the_rest_is_delivered(tmp_path: Path) -> None:
    run = HandMadeRun(tmp_path / "run")
    before = run.points(1, 2, 3)
    blob = Blob(sha256="0" * 64, size=1000)
    run.journal.append(lambda seq: Artifact(seq=seq, time=0, name="weights/final", step=3, blob=blob, file="model.pt"))
    after = run.points(4, 5)
    run.close()
    stored: list[int] = []
    outcomes = [deliver(run.folder, stored) for _ in range(MAX_HANGS + 1)]
    assert outcomes == [*[DeliveryOutcome.GAVE_UP] * MAX_HANGS, DeliveryOutcome.COMPLETE]
    assert stored == before + after
    progress = read_progress(run.folder, "slow")
    assert progress is not None
    assert (progress.cursor.rejected, progress.cursor.last_rejected) == (1, before[-1] + 1)
    assert "was not stored in the time allowed, 3 times; raise telemetry.hook_timeout" in progress.last_error
