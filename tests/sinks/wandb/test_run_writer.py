"""The rows and alerts that a run writer passes to wandb, on a fake run and a fake destination."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sinks._best_values import BestValues
from sinks.wandb.media import MediaRows
from sinks.wandb.run_writer import RunWriter
from sinks.wandb.stored_run import StoredRun
from telemetry import Metric
from telemetry.sink_api import Alert, SinkUnavailable
from telemetry.testing.points import STARTED, resumed, run_record, scalars

METRICS = {"val/E_rmse": Metric(unit="kcal/mol", better="lower"), "val/R2": Metric(better="higher")}


class FakeRun:
    """An open W&B run that notes what it receives."""

    dir = "/wandb/offline-run-1/files"

    def __init__(self, starting_step: int = 0) -> None:
        self.starting_step = starting_step
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.alerts: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.ended: list[object] = []

    def log(self, row: dict[str, Any], *, step: int, commit: bool) -> None:
        assert commit, "the row may never be written"
        self.rows.append((step, row))

    def alert(self, **what: Any) -> None:
        self.alerts.append(what)

    def mark_preempting(self) -> None:
        self.ended.append("preempting")

    def finish(self, *, exit_code: int) -> None:
        self.ended.append(exit_code)


class FakeDestination:
    """A destination that stores what ``stored`` rows say, and notes the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.broken = False

    def run_opened(self, folder: Path) -> None:
        self.calls.append(("opened", str(folder)))

    def expect_rows(self, next_step: int, attempt: int) -> None:
        self.calls.append(("expect", next_step, attempt))

    def confirmed_seq(self, accepted_seq: int) -> int | None:
        if self.broken:
            msg = "the file has been synced"
            raise SinkUnavailable(msg)
        return accepted_seq - 1

    def wait_stored(self, accepted_seq: int, status: str) -> None:
        self.calls.append(("stored", accepted_seq, status))


class Opener:
    """A writer of a run of which ``stored`` is stored already."""

    def __init__(self, starting_step: int = 0, **stored: Any) -> None:
        self.run = FakeRun(starting_step)
        self.opened = 0
        self.destination = FakeDestination()
        best = BestValues(run_record(metrics=METRICS), Path("/there/is/no/journal"))
        media = MediaRows(Path("/there/is/no/run"), METRICS)
        self.writer = RunWriter(self._open, self.destination, StoredRun(**stored), best, media)  # type: ignore[arg-type] # a fake

    def _open(self) -> FakeRun:
        self.opened += 1
        return self.run

    @property
    def seqs(self) -> list[int]:
        return [row["telemetry/seq"] for _, row in self.run.rows]


def test_a_record_is_a_row_with_its_iteration_number_attempt_and_time() -> None:
    opener = Opener()
    assert opener.writer.write([scalars(1, 200, loss=0.5), scalars(2, 400, "val", loss=0.25)]) == 1
    shared = {"telemetry/attempt": 1}
    assert opener.run.rows == [
        (
            0,
            shared
            | {"train/loss": 0.5, "trainer/iteration": 200, "telemetry/seq": 1, "_timestamp": STARTED / 1e3 + 1.001},
        ),
        (
            1,
            shared
            | {"val/loss": 0.25, "trainer/iteration": 400, "telemetry/seq": 2, "_timestamp": STARTED / 1e3 + 2.002},
        ),
    ]
    assert opener.destination.calls == [("opened", "/wandb/offline-run-1"), ("expect", 2, 1)]


def test_rows_continue_after_the_stored_ones() -> None:
    opener = Opener(last_seq=7, attempt=3, next_step=7)
    opener.writer.write([scalars(seq) for seq in range(5, 10)])
    assert opener.seqs == [8, 9]
    assert [step for step, _ in opener.run.rows] == [7, 8]
    assert {row["telemetry/attempt"] for _, row in opener.run.rows} == {3}
    assert ("expect", 9, 3) in opener.destination.calls


def test_rows_of_validation_contain_the_best_values_so_far() -> None:
    opener = Opener()
    values = [(1, 10, 5.0, 0.5), (2, 20, 7.0, 0.75), (3, 30, math.nan, 0.25), (4, 40, 4.0, 0.75)]
    opener.writer.write([scalars(seq, step, "val", E_rmse=error, R2=r2) for seq, step, error, r2 in values])
    opener.writer.write([scalars(5, 40, "train", E_rmse=1.0), resumed(10**9 + 1, step=35), scalars(10**9 + 2, 40)])
    opener.writer.write([scalars(10**9 + 3, 40, "val", E_rmse=6.0, R2=0.5)])
    found = [(row.get("best/val/E_rmse"), row.get("best/val/R2")) for _, row in opener.run.rows]
    assert found == [(5.0, 0.5), (5.0, 0.75), (5.0, 0.75), (4.0, 0.75), (None, None), (None, None), (5.0, 0.75)]
    opener.writer.finish("finished", "")
    assert opener.run.summary["best/val/E_rmse"] == 5.0


def test_rows_never_go_back_behind_the_step_at_which_wandb_starts() -> None:
    opener = Opener(starting_step=20, last_seq=7, next_step=7)
    opener.writer.write([scalars(8)])
    opener.writer.write([scalars(9)])
    assert [step for step, _ in opener.run.rows] == [20, 21]


def test_rows_after_a_resume_belong_to_its_attempt() -> None:
    opener = Opener()
    opener.writer.write([scalars(1), resumed(10**9 + 1, step=5, attempt=2), scalars(10**9 + 2)])
    assert [row["telemetry/attempt"] for _, row in opener.run.rows] == [1, 2]


@pytest.mark.parametrize("last_seq", [None, 5])
def test_a_run_without_new_records_is_not_opened(last_seq: int | None) -> None:
    opener = Opener(last_seq=last_seq, last_alert=5)
    records = [scalars(seq) for seq in range(1, 5)] if last_seq else []
    assert opener.writer.write([*records, Alert(seq=5, time=0, step=1, title="a spike")]) == last_seq
    assert (opener.opened, opener.destination.calls) == (0, [])


def test_each_alert_is_sent_once_with_its_level_and_full_text() -> None:
    opener = Opener(last_alert=2)
    alerts = [
        Alert(seq=2, time=0, step=10, title="sent before"),
        Alert(seq=3, time=0, step=20, title="t" * 100, text="details", level="error"),
        Alert(seq=4, time=0, step=30, title="a spike", level="warning"),
        Alert(seq=5, time=0, step=40, title="recovered", level="info"),
    ]
    opener.writer.write(alerts)
    opener.writer.write(alerts)
    assert [(sent["title"], sent["text"], sent["level"]) for sent in opener.run.alerts] == [
        ("t" * 63, f"iteration 20: {'t' * 100}\ndetails", "ERROR"),
        ("a spike", "iteration 30: a spike", "WARN"),
        ("recovered", "iteration 40: recovered", "INFO"),
    ]
    assert all(sent["wait_duration"] < 0.01 for sent in opener.run.alerts)
    opener.writer.finish("finished", "")
    assert opener.run.summary["telemetry/alert"] == 5


@pytest.mark.parametrize(
    ("status", "ended"),
    [("finished", [0]), ("failed", [1]), ("preempted", ["preempting", 143]), ("killed", [137])],
)
def test_the_run_ends_once_with_its_status_and_reason(status: Any, ended: list[object]) -> None:
    opener = Opener()
    opener.writer.write([scalars(1), scalars(2)])
    opener.writer.finish(status, "why")
    opener.writer.finish(status, "why")
    assert opener.run.ended == ended
    assert opener.run.summary == {"telemetry/status": status, "telemetry/reason": "why", "telemetry/alert": 0}
    assert opener.destination.calls[-1] == ("stored", 2, status)
    assert opener.opened == 1
    assert opener.writer.write([scalars(1), scalars(2)]) == 2


@pytest.mark.parametrize(("stored", "opened"), [("failed", 1), ("finished", 0), ("", 1)])
def test_a_run_with_the_status_already_stored_is_not_opened(stored: str, opened: int) -> None:
    opener = Opener(last_seq=7, status=stored)
    opener.writer.finish("finished", "")
    assert opener.opened == opened


def test_a_run_does_not_end_while_its_rows_are_not_accepted() -> None:
    opener = Opener()
    opener.writer.write([scalars(1)])
    opener.destination.broken = True
    with pytest.raises(SinkUnavailable, match="has been synced"):
        opener.writer.finish("finished", "")
    assert opener.run.ended == []
    opener.destination.broken = False
    opener.writer.finish("finished", "")
    assert opener.run.ended == [0]
