"""A delivery process as seen by its parent: restarts, backoff, rejection."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest

from support.telemetry_fakes import Backend, FakeClock, sink_for
from telemetry import Settings
from telemetry.delivery.process_worker import ProcessWorker
from telemetry.run_folder.sink_progress import SinkProgress, write_progress


class FakeProcess:
    """A process that ends with ``code`` as soon as it is set."""

    def __init__(self, code: int | None = None) -> None:
        self.stdin = io.BytesIO()
        self.code = code

    def poll(self) -> int | None:
        return self.code

    def wait(self) -> int | None:
        return self.code


class Starter:
    """Start fake processes and record the times; the first ``fail`` starts raise OSError."""

    def __init__(self, clock: FakeClock, code: int | None = None, fail: int = 0) -> None:
        self.processes: list[FakeProcess] = []
        self.times: list[float] = []
        self._clock = clock
        self._code = code
        self._fail = fail

    def __call__(self, log_file: Path) -> Any:
        self.times.append(self._clock())
        if len(self.times) <= self._fail:
            raise OSError(11, "Resource temporarily unavailable")
        self.processes.append(FakeProcess(self._code))
        return self.processes[-1]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def worker_for(folder: Path, start: Starter, clock: FakeClock) -> ProcessWorker:
    return ProcessWorker(folder, sink_for(Backend()), Settings(), start_process=start, clock=clock)


def supervise(worker: ProcessWorker, clock: FakeClock, seconds: int) -> None:
    for _ in range(seconds):
        clock.sleep(1.0)
        worker.supervise()


def test_a_process_that_keeps_dying_is_restarted_less_and_less_often(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    start = Starter(clock, code=1)
    worker = worker_for(tmp_path, start, clock)
    worker.start()
    supervise(worker, clock, 600)
    delays = [round(later - earlier) for earlier, later in itertools.pairwise(start.times)]
    assert delays[:7] == sorted(delays[:7])
    assert set(delays[6:]) == {61}, "the delay has grown to a minute, and stays there"
    assert len(delays) > 10
    assert caplog.text.count("memory: delivery ended with code 1 and will be restarted") == 6, (
        "not repeated at the maximum delay"
    )


def test_a_process_that_dies_after_more_than_a_minute_is_restarted_after_the_initial_delay(
    tmp_path: Path, clock: FakeClock
) -> None:
    start = Starter(clock, code=1)
    worker = worker_for(tmp_path, start, clock)
    worker.start()
    supervise(worker, clock, 30)
    start.processes[-1].code = None
    clock.sleep(100.0)
    start.processes[-1].code = -9
    died = clock()
    supervise(worker, clock, 3)
    assert start.times[-1] - died <= 2.0


def test_a_process_that_cannot_be_started_is_retried(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    start = Starter(clock, fail=2)
    worker = worker_for(tmp_path, start, clock)
    worker.start()
    supervise(worker, clock, 5)
    assert len(start.processes) == 1
    assert caplog.text.count("memory: cannot start delivery ([Errno 11]") == 2


def test_a_process_that_delivered_everything_is_not_restarted(tmp_path: Path, clock: FakeClock) -> None:
    start = Starter(clock, code=0)
    worker = worker_for(tmp_path, start, clock)
    worker.start()
    supervise(worker, clock, 100)
    assert worker.has_ended
    assert len(start.times) == 1


@pytest.mark.parametrize(
    ("progress", "is_logged"),
    [
        # Reported by SinkNotices.
        (SinkProgress(state="refused", last_error="memory: no key"), False),
        (SinkProgress(last_error="memory: timeout"), True),
        (None, True),
    ],
)
def test_a_process_whose_sink_rejects_the_run_or_cannot_be_loaded_is_not_restarted(
    tmp_path: Path,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    progress: SinkProgress | None,
    is_logged: bool,
) -> None:
    (tmp_path / "sinks").mkdir()
    if progress is not None:
        write_progress(tmp_path, "memory", progress)
    start = Starter(clock, code=78)
    worker = worker_for(tmp_path, start, clock)
    worker.start()
    supervise(worker, clock, 100)
    assert worker.has_ended
    assert len(start.times) == 1
    message = f"memory: delivery cannot start; see {tmp_path / 'sinks' / 'memory.log'}"
    assert (message in caplog.text) == is_logged


def test_a_process_receives_its_job_and_later_a_line_for_each_wake_up(tmp_path: Path, clock: FakeClock) -> None:
    start = Starter(clock)
    worker = worker_for(tmp_path, start, clock)
    worker.wake()  # no process yet
    worker.start()
    worker.wake()
    job, *wake_ups = start.processes[0].stdin.getvalue().split(b"\n")
    assert b'"sink":"memory"' in job
    assert len(wake_ups) == 2


def test_waking_a_process_that_has_just_died_does_no_harm(tmp_path: Path, clock: FakeClock) -> None:
    start = Starter(clock)
    worker = worker_for(tmp_path, start, clock)
    worker.start()
    start.processes[0].stdin.close()
    worker.wake()


def test_a_pending_restart_happens_when_the_worker_is_detached(tmp_path: Path, clock: FakeClock) -> None:
    start = Starter(clock, code=1)
    worker = worker_for(tmp_path, start, clock)
    worker.start()
    worker.supervise()
    worker.detach()
    assert len(start.processes) == 2
    assert start.processes[1].stdin.closed
