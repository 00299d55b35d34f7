"""Lines about sinks that cannot be reached, have recovered, or reject records."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from support.telemetry_fakes import FakeClock
from telemetry.delivery.sink_notices import SinkNotices, reason
from telemetry.run_folder.sink_progress import Cursor, SinkProgress, write_progress

REFUSED = (
    "mlflow of aimnet2mult 0.2.0: SinkUnavailable: mlflow: MlflowException: API request to "
    "http://127.0.0.1:5000/api/2.0/mlflow/runs/get failed with exception HTTPConnectionPool(host='127.0.0.1', "
    "port=5000): Max retries exceeded with url: /api/2.0 (Caused by NewConnectionError('<urllib3.connection object at "
    "0x7f>: Failed to establish a new connection: [Errno 111] Connection refused'))"
)

HTTP_500 = "server error 500 at http://h:1"


class Sink:
    """A sink whose progress file is written by hand, and the lines about it."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.lines: list[str] = []
        self.levels: list[int] = []
        self._folder = folder
        self._updates = 0
        self.notices = SinkNotices(folder, ["mlflow"], clock=self.clock)

    def is_now(
        self, state: Any, accepted: int = 0, *, seconds: int = 0, rejected: int = 0, error: str = REFUSED
    ) -> None:
        """Write the state, and look at it every two seconds for some time."""
        self._updates += 1
        cursor = Cursor(accepted=accepted, rejected=rejected)
        progress = SinkProgress(
            state=state, destination="here", cursors={"here": cursor}, last_error=error, updated=self._updates
        )
        write_progress(self._folder, "mlflow", progress)
        for _ in range(0, seconds + 1, 2):
            found = self.notices.poll()
            self.lines += [notice.text for notice in found]
            self.levels += [notice.level for notice in found]
            self.clock.sleep(2.0)


@pytest.fixture
def sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sink:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/first/sinks").mkdir(parents=True)
    return Sink(tmp_path / "runs/first")


def test_an_outage_and_the_recovery_are_each_reported_once(sink: Sink) -> None:
    sink.is_now("delivering", 5)
    sink.is_now("retrying", 5, seconds=300)
    sink.is_now("delivering", 125, seconds=300)
    sink.is_now("delivering", 130, seconds=300)
    outage, recovery = sink.lines
    assert outage == (
        "mlflow: cannot be reached (connection refused at http://127.0.0.1:5000); retrying, records stay in the journal"
    )
    assert recovery == "mlflow: reached again; 120 records delivered"
    assert sink.levels == [logging.WARNING, logging.INFO]


def test_a_failure_that_the_first_retry_overcomes_is_not_reported(sink: Sink) -> None:
    sink.is_now("retrying", 5, seconds=2)
    sink.is_now("delivering", 6, seconds=60)
    assert sink.lines == []


def test_a_server_that_comes_and_goes_causes_fewer_and_fewer_lines(sink: Sink) -> None:
    for cycle in range(100):
        sink.is_now("retrying", 10 * cycle, seconds=30)
        sink.is_now("delivering", 10 * cycle + 10, seconds=30)
    assert 2 <= len(sink.lines) <= 6, "a line for each of 200 changes would be a flood"


def test_an_open_connection_is_no_recovery_before_new_records_are_accepted(sink: Sink) -> None:
    sink.is_now("retrying", 5, seconds=20)
    sink.is_now("delivering", 5, seconds=100)
    assert len(sink.lines) == 1
    sink.is_now("delivering", 6, seconds=20)
    assert sink.lines[1:] == ["mlflow: reached again; 1 record delivered"]


def test_a_closed_run_has_been_reached_again_without_delay(sink: Sink) -> None:
    sink.is_now("retrying", 5, seconds=20)
    sink.is_now("closed", 9)
    assert sink.lines[1:] == ["mlflow: reached again; 4 records delivered"]


def test_the_number_is_left_out_if_the_journal_has_a_new_segment(sink: Sink) -> None:
    sink.is_now("retrying", 5, seconds=20)
    sink.is_now("closed", 10**9 + 3)
    assert sink.lines[1:] == ["mlflow: reached again"]


def test_rejected_records_and_the_end_of_a_delivery_are_reported_once(sink: Sink) -> None:
    sink.is_now("delivering", 5, rejected=1, error="mlflow of a 1: SinkRejected: too long")
    sink.is_now("delivering", 9, rejected=3, error="mlflow of a 1: SinkRejected: too long")
    sink.is_now("refused", 9, rejected=3, error="mlflow of a 1: SinkRejected: no such experiment", seconds=10)
    record, run = sink.lines
    assert record == (
        "mlflow: has rejected a record (too long); rejected records are kept in runs/first/sinks/mlflow.rejected.jsonl"
    )
    assert run.startswith("mlflow: has rejected this run (no such experiment); its records stay in the ")


def test_what_an_earlier_attempt_left_is_not_reported(sink: Sink, tmp_path: Path) -> None:
    sink.is_now("retrying", 5, rejected=2)
    later = SinkNotices(tmp_path / "runs/first", ["mlflow"], clock=sink.clock)
    sink.clock.sleep(60.0)
    assert later.poll(last=True) == []


def test_an_outage_is_reported_at_the_end_even_if_it_has_just_begun(sink: Sink) -> None:
    sink.is_now("retrying", 5)
    assert len(sink.notices.poll(last=True)) == 1


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (REFUSED, "connection refused at http://127.0.0.1:5000"),
        ("x of y: E: Pool(host='h', port=80): Read timed out. (read timeout=10)", "no answer in time at h:80"),
        ("x of y: OSError: [Errno -2] Name or service not known", "unknown host"),
        ("x of y: HTTPError: 503 Server Error", "server error 503"),
        ("x of y 1: SinkUnavailable: x: E: at http://h:1/a (ResponseError('too many 500 error responses'))", HTTP_500),
        ("x of y 1: SinkRejected: x: unknown: project", "unknown: project"),
        ("ValueError: no prefix", "ValueError: no prefix"),
        ("", "no reason given"),
    ],
)
def test_the_reason_is_short(message: str, expected: str) -> None:
    assert reason(message, Path("run/sinks/x.log")) == expected


def test_an_unknown_reason_can_name_the_package() -> None:
    log = Path("run/sinks/x.log")
    assert reason("x of y 1.0: SinkRejected: no project", log, package=True) == "x of y 1.0: no project"
    assert reason(REFUSED, log, package=True) == "connection refused at http://127.0.0.1:5000"


def test_a_long_message_ends_with_a_reference_to_the_log() -> None:
    text = reason("x of y: Error: " + "html " * 200, Path("run/sinks/x.log"))
    assert text.endswith("… see run/sinks/x.log")
    assert len(text) < 200
