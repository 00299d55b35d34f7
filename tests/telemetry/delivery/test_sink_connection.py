"""The connection to a sink: its hooks, batches and rejected records."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.telemetry_fakes import Backend, HandMadeRun, run_record, sink_for
from telemetry import testing
from telemetry.delivery.hook_watchdog import HookWatchdog
from telemetry.delivery.sink_connection import SinkConnection
from telemetry.errors import PluginError, SinkRejected, SinkUnavailable
from telemetry.plugins.registry import Plugin, Sink
from telemetry.records import AnyRecord, Closed
from telemetry.sink_api import Artifact, Blob, Opened, hookimpl

RECORDS: list[AnyRecord] = [testing.scalars(seq) for seq in range(1, 2501)]
CLOSED = Closed(seq=9, time=1234, status="failed", reason="out of memory")


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def run(tmp_path: Path) -> HandMadeRun:
    return HandMadeRun(tmp_path / "run")


def connect(run: HandMadeRun, sink: Sink) -> SinkConnection:
    return SinkConnection(run.folder, sink, HookWatchdog(60.0, lambda: None))


@pytest.fixture
def connection(run: HandMadeRun, backend: Backend) -> SinkConnection:
    connection = connect(run, sink_for(backend))
    connection.open()
    return connection


def test_opening_passes_the_run_and_returns_the_position_of_the_sink(run: HandMadeRun, backend: Backend) -> None:
    backend.held = [RECORDS[6]]
    connection = connect(run, sink_for(backend))
    assert not connection.is_open
    assert connection.open() == Opened("memory", 7)
    assert connection.is_open
    assert [opened.run_id for opened in backend.runs] == [run_record(run.folder).run_id]


def test_large_contents_are_offered_in_calls_of_their_own(connection: SinkConnection, backend: Backend) -> None:
    pending = [
        *RECORDS[:2],
        *(artifact(seq, megabytes) for seq, megabytes in enumerate([10, 5, 2, 2000], 3)),
        *RECORDS[6:10],
    ]
    while pending:
        del pending[: len(connection.write(pending).records)]
    assert backend.calls == [4, 1, 1, 4]


def artifact(seq: int, megabytes: int) -> Artifact:
    blob = Blob(sha256="0" * 64, size=megabytes * 10**6)
    return Artifact(seq=seq, time=0, name="best/weights", step=seq, blob=blob, file="model.pt")


def test_a_connection_that_cannot_be_opened_is_not_open(run: HandMadeRun, backend: Backend) -> None:
    backend.down = SinkUnavailable("no network")
    connection = connect(run, sink_for(backend))
    with pytest.raises(SinkUnavailable, match="no network"):
        connection.open()
    assert not connection.is_open


def test_an_invalid_result_of_sink_open_is_a_plugin_error(run: HandMadeRun) -> None:
    class InvalidSink:
        @hookimpl
        def sink_open(self) -> str:
            return "somewhere"

        @hookimpl
        def sink_write(self) -> None: ...

        @hookimpl
        def sink_close(self) -> None: ...

    connection = connect(run, Sink("bad", {}, Plugin("bad", InvalidSink, "fakes 1.0")))
    with pytest.raises(PluginError, match=r"sink_open of bad of fakes 1\.0 returned 'somewhere'; it must return"):
        connection.open()
    assert not connection.is_open


def test_each_call_offers_one_batch_of_up_to_1000_records(connection: SinkConnection, backend: Backend) -> None:
    result = connection.write(RECORDS)
    assert (result.records, result.durable, result.rejection) == (RECORDS[:1000], 1000, None)
    assert backend.calls == [1000]


def test_a_rejected_batch_is_halved_until_the_offending_record_is_found(
    connection: SinkConnection, backend: Backend
) -> None:
    backend.bad = frozenset({1})
    results = [connection.write(RECORDS[:8])]
    while not results[-1].records:
        results.append(connection.write(RECORDS[:8]))
    assert backend.calls == [8, 4, 2, 1]
    assert results[-1].records == RECORDS[:1]
    assert isinstance(results[-1].rejection, SinkRejected)
    assert backend.held == []


def test_batches_grow_again_after_a_rejection(connection: SinkConnection, backend: Backend) -> None:
    backend.faults = [SinkRejected("too large")] * 3
    pending = list(RECORDS)
    while pending:
        del pending[: len(connection.write(pending).records)]
    assert backend.calls == [1000, 500, 250, 125, 250, 500, 1000, 625]
    assert backend.held == RECORDS


def test_other_errors_of_a_write_are_raised(connection: SinkConnection, backend: Backend) -> None:
    backend.faults = [SinkUnavailable("no network")]
    with pytest.raises(SinkUnavailable, match="no network"):
        connection.write(RECORDS)
    assert connection.write(RECORDS).durable == 1000


def test_closing_passes_status_time_and_reason(connection: SinkConnection, backend: Backend) -> None:
    connection.close(CLOSED)
    assert (backend.closed, backend.ends) == (["failed"], [(1234, "out of memory")])


def test_a_dropped_instance_is_not_closed_and_replaced_by_a_new_one(
    connection: SinkConnection, backend: Backend
) -> None:
    connection.drop()
    assert not connection.is_open
    connection.open()
    assert len(backend.sinks) == 2
    assert backend.closed == []
