"""The saved position of a sink."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.telemetry_fakes import Backend, sink_for
from telemetry import testing
from telemetry.delivery.cursor import DeliveryCursor
from telemetry.run_folder.sink_progress import SinkProgress, progress_path, read_progress
from telemetry.sink_api import Opened, SinkRejected, SinkUnavailable


@pytest.fixture
def lines() -> list[str]:
    """The lines logged."""
    return []


@pytest.fixture
def cursor(tmp_path: Path, lines: list[str]) -> DeliveryCursor:
    return load(tmp_path, lines)


def load(folder: Path, lines: list[str] | None = None) -> DeliveryCursor:
    cursor = DeliveryCursor(folder, sink_for(Backend()), ([] if lines is None else lines).append)
    cursor.load()
    return cursor


def saved(folder: Path) -> SinkProgress:
    progress = read_progress(folder, "memory")
    assert progress is not None
    return progress


def test_while_the_sink_is_being_opened_its_destination_counts_as_unknown(
    cursor: DeliveryCursor, tmp_path: Path
) -> None:
    cursor.move_to(Opened("here", 3, "open here"))
    cursor.start_opening("retrying")
    assert (saved(tmp_path).state, saved(tmp_path).reopening, saved(tmp_path).destination) == ("retrying", True, "here")
    cursor.move_to(Opened("there", 5, "open there"))
    progress = saved(tmp_path)
    assert (progress.state, progress.reopening) == ("delivering", False)
    assert (progress.destination, progress.view) == ("there", "open there")


@pytest.mark.parametrize(("reported", "position"), [(None, 4), (0, 0), (3, 3), (6, 6)])
def test_the_position_reported_by_the_sink_overrides_the_saved_one(
    cursor: DeliveryCursor, tmp_path: Path, reported: int | None, position: int
) -> None:
    cursor.move_to(Opened("here"))
    cursor.advance(5, durable=4)
    again = load(tmp_path)
    assert again.move_to(Opened("here", reported)) == position
    assert again.accepted == position


def test_each_destination_has_its_own_position(cursor: DeliveryCursor, tmp_path: Path) -> None:
    cursor.move_to(Opened("here"))
    cursor.advance(5, durable=5)
    assert load(tmp_path).move_to(Opened("there")) == 0
    assert load(tmp_path).move_to(Opened("here")) == 5


def test_the_durable_position_never_decreases_nor_exceeds_the_accepted_one(
    cursor: DeliveryCursor, tmp_path: Path
) -> None:
    cursor.move_to(Opened("here"))
    for seq, durable, expected in ((5, 99, 5), (7, None, 5), (9, 3, 5), (9, 8, 8)):
        cursor.advance(seq, durable)
        assert (saved(tmp_path).cursor.accepted, saved(tmp_path).cursor.durable) == (seq, expected)


def test_closing_makes_everything_accepted_durable_until_more_is_delivered(
    cursor: DeliveryCursor, tmp_path: Path
) -> None:
    cursor.move_to(Opened("here"))
    cursor.advance(5, None)
    cursor.close("preempted")
    assert (saved(tmp_path).state, saved(tmp_path).cursor.closed, saved(tmp_path).cursor.durable) == (
        "closed",
        "preempted",
        5,
    )
    cursor.advance(6, None)
    assert (saved(tmp_path).state, saved(tmp_path).cursor.closed) == ("delivering", None)


def test_a_failure_goes_back_to_the_durable_position(cursor: DeliveryCursor, tmp_path: Path) -> None:
    cursor.move_to(Opened("here"))
    cursor.advance(5, durable=3)
    cursor.fail(SinkUnavailable("no " + 2000 * "x"))
    progress = saved(tmp_path)
    assert (cursor.accepted, progress.cursor.accepted, progress.retries, progress.state) == (3, 3, 1, "retrying")
    assert progress.last_error.startswith("memory of fakes 1.0: SinkUnavailable: no xxx")
    assert progress.last_error_time > 0


def test_a_rejected_run_is_saved_with_its_reason(cursor: DeliveryCursor, tmp_path: Path) -> None:
    cursor.reject(SinkRejected("no key"))
    assert (saved(tmp_path).state, saved(tmp_path).last_error) == (
        "refused",
        "memory of fakes 1.0: SinkRejected: no key",
    )


def test_a_rejected_record_is_set_aside_and_counted_once(
    cursor: DeliveryCursor, tmp_path: Path, lines: list[str]
) -> None:
    cursor.move_to(Opened("here"))
    cursor.set_aside(testing.scalars(4), SinkRejected("too large"))
    cursor.advance(4, None)
    # As after a restart: the record is offered and rejected again.
    load(tmp_path, lines).set_aside(testing.scalars(4), SinkRejected("too large"))
    path = tmp_path / "sinks" / "memory.rejected.jsonl"
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [4]
    assert (saved(tmp_path).cursor.rejected, saved(tmp_path).cursor.last_rejected) == (1, 4)
    assert lines == [f"memory of fakes 1.0 rejected record 4 (too large); it was set aside in {path}"]


def test_a_file_that_cannot_be_written_is_logged_once_until_it_can(
    cursor: DeliveryCursor, tmp_path: Path, lines: list[str]
) -> None:
    path = progress_path(tmp_path, "memory")
    for _ in range(2):
        path.unlink(missing_ok=True)
        path.mkdir(parents=True)
        cursor.move_to(Opened("here"))
        cursor.advance(5, None)
        path.rmdir()
        cursor.advance(6, None)
    assert saved(tmp_path).cursor.accepted == 6
    assert [line.partition(": ")[0] for line in lines] == ["cannot save the progress of memory"] * 2
