"""The receipt of a run."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import msgspec
import pytest

from support.segment_files import numbered, resumed, run_record, scalars, write
from telemetry import JournalError
from telemetry.delivery.receipt import read_receipt, receipt
from telemetry.journal.codec import encode
from telemetry.journal.reader import Skipped
from telemetry.journal.segments import segment_path
from telemetry.records import MEDIA_KINDS, SEQ_PER_SEGMENT, Closed
from telemetry.run_folder.heartbeat import Counts, Heartbeat, write_heartbeat
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.process_identity import current_process
from telemetry.run_folder.sink_progress import Cursor, SinkProgress, write_progress
from telemetry.testing import media_sample


def sink(folder: Path, name: str, accepted: int, rejected: int = 0, **fields: object) -> None:
    (folder / "sinks").mkdir(exist_ok=True)
    cursors = {"there": Cursor(accepted=accepted, rejected=rejected)}
    write_progress(folder, name, SinkProgress(destination="there", cursors=cursors, **fields))  # type: ignore[arg-type]


def test_journaled_delivered_and_pending_records_are_counted_per_sink(tmp_path: Path) -> None:
    write(tmp_path, 0, [*numbered(0, 1, 5), Closed(seq=6, time=1, status="finished")])
    sink(tmp_path, "all", 5)
    sink(tmp_path, "some", 3, rejected=1)
    sink(tmp_path, "none", 0)
    got = receipt(tmp_path, Counts(offered=5, journaled=5, step=5))
    assert (got.status, got.step, got.journaled, got.skipped) == ("finished", 5, 5, Skipped())
    assert [(s.name, s.delivered, s.pending) for s in got.sinks] == [("all", 5, 0), ("none", 0, 5), ("some", 2, 2)]


def test_a_sink_that_was_never_delivered_to_is_included(tmp_path: Path) -> None:
    segment_path(tmp_path, 0).write_bytes(encode(run_record(sinks={"wandb": {}})) + encode(scalars(1)))
    got = receipt(tmp_path, Counts(offered=1, journaled=1))
    assert [(s.name, s.delivered, s.pending, s.progress.state) for s in got.sinks] == [("wandb", 0, 1, "opening")]


def test_superseded_records_count_neither_as_journaled_nor_as_pending(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(n, 100 * n) for n in range(1, 6)])
    write(tmp_path, 1, [resumed(1, 300), scalars(SEQ_PER_SEGMENT + 2, 400)])
    sink(tmp_path, "foo", 3)
    got = receipt(tmp_path, Counts())
    # 100, 200, 300, the resume, and 400 of the second attempt.
    assert (got.step, got.journaled, got.skipped.superseded) == (400, 5, 2)
    assert [(s.delivered, s.pending) for s in got.sinks] == [(3, 2)]


def test_the_status_is_that_of_the_newest_attempt(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(1), Closed(seq=2, time=1, status="preempted")])
    assert receipt(tmp_path, Counts()).status == "preempted"
    write(tmp_path, 1, [resumed(1, 1)])
    assert receipt(tmp_path, Counts()).status is None


def test_the_receipt_of_a_folder_without_a_run_is_empty(tmp_path: Path) -> None:
    got = receipt(tmp_path, Counts(offered=3, lost=3))
    assert (got.status, got.step, got.journaled, got.sinks) == (None, 0, 0, [])
    assert str(got) == f"telemetry: 3 records offered, 0 journaled in {tmp_path}; 3 NOT WRITTEN"


def test_the_receipt_shows_what_is_left_and_the_command_that_delivers_it(tmp_path: Path) -> None:
    folder = tmp_path / "a run's folder"
    folder.mkdir()
    write(folder, 0, numbered(0, 1, 5))
    sink(folder, "mlflow", 2, state="retrying", last_error="ConnectionError: refused")
    sink(folder, "tensorboard", 5, state="closed")
    sink(folder, "wandb", 0, rejected=0, state="refused", last_error="no key")
    text = str(receipt(folder, Counts(offered=6, journaled=5)))
    lines = re.sub(r"last error, \S+ \S+: ", "last error, then: ", text).splitlines()
    assert lines == [
        f"telemetry: 6 records offered, 5 journaled in {folder}; 1 NOT WRITTEN",
        "  mlflow: retrying; 2 delivered, 3 pending",
        "      to there",
        "      last error, then: ConnectionError: refused",
        "      no process is delivering",
        "  tensorboard: closed; 5 delivered, 0 pending",
        "      to there",
        "  wandb: refused; 0 delivered, 5 pending",
        "      to there",
        "      last error, then: no key",
        lines[-1],
    ]
    command = lines[-1].partition("deliver the rest: ")[2]
    assert shlex.split(command) == ["telemetry", "sync", str(folder), "--telemetry-sinks", "mlflow,wandb"]


def test_the_receipt_shows_how_to_view_the_run_on_up_to_two_lines(tmp_path: Path) -> None:
    write(tmp_path, 0, numbered(0, 1, 1))
    sink(tmp_path, "one", 1, state="closed", view="tool RUN")
    sink(tmp_path, "two", 1, state="closed", view="tool RUN\nhttp://localhost/")
    one, two = receipt(tmp_path, Counts()).sinks
    assert one.lines()[2:] == ["    view with: tool RUN"]
    assert two.lines()[2:] == ["    view with: tool RUN", "    then open http://localhost/"]


def test_the_receipt_of_an_unopened_sink_names_no_destination(tmp_path: Path) -> None:
    segment_path(tmp_path, 0).write_bytes(encode(run_record(sinks={"wandb": {}})) + encode(scalars(1)))
    assert receipt(tmp_path, Counts()).sinks[0].lines() == [
        "wandb: opening; 0 delivered, 1 pending",
        "    no process is delivering",
    ]


def test_the_receipt_names_what_was_left_out(tmp_path: Path) -> None:
    dropped = {"queue full": 3, "not a number": 1}
    got = receipt(tmp_path, Counts(offered=3, lost=3, dropped=dropped))
    assert str(got).splitlines()[1:] == ["  left out: 3 x queue full, 1 x not a number"]


def test_the_rest_is_to_be_delivered_once_the_process_that_delivers_to_one_of_the_sinks_has_ended(
    tmp_path: Path,
) -> None:
    write(tmp_path, 0, numbered(0, 1, 5))
    sink(tmp_path, "busy", 2, state="delivering")
    sink(tmp_path, "idle", 2, state="retrying")
    assert Lease(tmp_path / "sinks", "busy").try_acquire()
    got = receipt(tmp_path, Counts())
    assert [line for s in got.sinks for line in s.lines() if "deliver" in line][1::2] == [
        f"    being delivered by {current_process()}",
        "    no process is delivering",
    ]
    (command,) = got.sync_command()
    assert command.startswith("deliver the rest once no process is delivering: ")
    (command,) = got.sync_command("idle")
    assert command == f"deliver the rest: telemetry sync {shlex.quote(str(tmp_path))} --telemetry-sinks idle"


def test_a_malicious_sink_name_in_the_journal_leads_to_no_file_outside_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    outside = SinkProgress(destination="stolen", cursors={"stolen": Cursor(accepted=9)})
    (tmp_path / "outside.json").write_bytes(msgspec.json.encode(outside))
    head = encode(run_record(sinks={"../../outside": {}}))
    segment_path(folder, 0).write_bytes(head + encode(scalars(1)))
    got = receipt(folder, Counts())
    assert got.sinks == []
    assert got.skipped.damaged == 1


def test_a_journal_of_a_newer_version_is_an_error(tmp_path: Path) -> None:
    segment_path(tmp_path, 0).write_bytes(encode(run_record(schema=2)))
    with pytest.raises(JournalError, match="schema 2"):
        receipt(tmp_path, Counts())


@pytest.mark.parametrize(
    ("state", "error", "rejected", "details"),
    [
        ("opening", "", 0, ["no process is delivering"]),
        ("delivering", "out of memory", 0, ["no process is delivering"]),
        ("delivering", "bad name", 2, ["last error, ", "no process is delivering"]),
        ("retrying", "out of memory", 0, ["last error, ", "no process is delivering"]),
        ("refused", "wrong key", 0, ["last error, "]),
        ("refused", "", 0, []),
        ("closed", "out of memory", 0, []),
        ("closed", "bad name", 2, ["last error, "]),
    ],
)
def test_the_last_error_and_a_missing_process_are_shown_where_they_matter(
    tmp_path: Path, state: str, error: str, rejected: int, details: list[str]
) -> None:
    write(tmp_path, 0, [*numbered(0, 1, 5)])
    sink(tmp_path, "a", 5, rejected, state=state, last_error=error)
    _, place, *lines = receipt(tmp_path, Counts(offered=5, journaled=5)).sinks[0].lines()
    assert place == "    to there"
    assert len(lines) == len(details)
    for line, start in zip(lines, details, strict=True):
        assert line.startswith(f"    {start}")
        assert line.endswith(error if start.startswith("last") else start)


@pytest.mark.parametrize("kind", ["file", "link", "pipe"])
def test_a_file_in_place_of_the_folder_of_the_sinks_does_not_hide_the_run(tmp_path: Path, kind: str) -> None:
    path = segment_path(tmp_path, 0)
    path.write_bytes(encode(run_record(sinks={"tensorboard": {}})) + b"".join(map(encode, numbered(0, 1, 5))))
    sinks = tmp_path / "sinks"
    {"file": sinks.touch, "link": lambda: sinks.symlink_to(path), "pipe": lambda: os.mkfifo(sinks)}[kind]()
    (found,) = receipt(tmp_path, Counts()).sinks
    assert (found.name, found.pending, found.holder) == ("tensorboard", 5, "")


@pytest.mark.parametrize("rejected", [0, 1, 4])
@pytest.mark.parametrize("accepted", [0, 1, 2, 3, SEQ_PER_SEGMENT + 1, SEQ_PER_SEGMENT + 2])
@pytest.mark.parametrize("resume_step", [None, 100, 300])
def test_delivered_pending_and_rejected_records_add_up_to_the_journaled_ones(
    tmp_path: Path, rejected: int, accepted: int, resume_step: int | None
) -> None:
    write(tmp_path, 0, [scalars(n, 100 * n) for n in range(1, 6)])
    if resume_step is not None:
        write(tmp_path, 1, [resumed(1, resume_step), scalars(SEQ_PER_SEGMENT + 2, resume_step + 100)])
    sink(tmp_path, "foo", accepted, rejected)
    got = receipt(tmp_path, Counts())
    (foo,) = got.sinks
    assert foo.delivered + foo.pending + foo.rejected == got.journaled
    assert min(foo.delivered, foo.pending, foo.rejected) >= 0


def test_records_of_earlier_attempts_are_mentioned_because_sinks_count_them(tmp_path: Path) -> None:
    write(tmp_path, 0, [scalars(n, 100 * n) for n in range(1, 4)])
    write(tmp_path, 1, [resumed(1, 300), scalars(SEQ_PER_SEGMENT + 2, 400)])
    lines = str(receipt(tmp_path, Counts(offered=2, journaled=2))).splitlines()
    assert lines == [
        f"telemetry: 2 records offered, 2 journaled in {tmp_path}",
        "  5 records journaled, including those of earlier attempts",
    ]


def test_the_receipt_of_the_writer_equals_the_one_read_from_the_journal(tmp_path: Path) -> None:
    records = [*numbered(0, 1, 5), Closed(seq=6, time=1, status="failed", reason="full disk")]
    write(tmp_path, 0, records)
    sink(tmp_path, "foo", 3, rejected=1)
    counts = Counts(offered=6, journaled=5, lost=1, step=5)
    write_heartbeat(tmp_path, Heartbeat(trainer=current_process(), attempt=1, beat=-1, counts=counts))
    assert receipt(tmp_path, counts) == read_receipt(tmp_path)


def test_media_that_a_sink_does_not_show_are_stated(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    media = [*media_sample(tmp_path / "run", 1), *media_sample(tmp_path / "run", 6)]
    write(tmp_path / "run", 0, [*media, Closed(seq=11, time=1, status="finished")])
    sink(tmp_path / "run", "all", 10, media=MEDIA_KINDS)
    sink(tmp_path / "run", "none", 10, media=())
    sink(tmp_path / "run", "old", 10)
    sink(tmp_path / "run", "some", 10, media=("text", "image", "artifact", "video"))
    numbers = dict.fromkeys(MEDIA_KINDS, 2)
    counts = Counts(offered=10, journaled=10, step=100, media=numbers)
    write_heartbeat(tmp_path / "run", Heartbeat(trainer=current_process(), attempt=1, beat=-1, counts=counts))
    got = receipt(tmp_path / "run", counts)
    assert got == read_receipt(tmp_path / "run")
    assert {each.name: list(each.not_shown) for each in got.sinks} == {
        "all": [],
        "none": list(MEDIA_KINDS),
        "old": [],
        "some": ["table", "histogram"],
    }
    assert "    not shown by some: 2 tables and 2 histograms" in str(got)
    texts = "not shown by none: 2 texts, 2 tables, 2 images, 2 histograms and 2 artifacts"
    assert f"      {texts}" in str(got).splitlines()


def test_superseded_media_are_not_counted(tmp_path: Path) -> None:
    write(tmp_path, 0, media_sample(tmp_path, 1, step=20))
    write(tmp_path, 1, [resumed(1, 10)])
    sink(tmp_path, "none", 5, media=())
    assert [each.not_shown for each in read_receipt(tmp_path).sinks] == [{}]


def test_the_writer_does_not_read_its_journal(tmp_path: Path) -> None:
    write(tmp_path, 0, numbered(0, 1, 5))
    segment = segment_path(tmp_path, 0)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:2], b"damage\n", *lines[3:]]))
    # The counts of the bus describe what it has made durable; a reader notices the damage.
    assert receipt(tmp_path, Counts(offered=5, journaled=5)).journaled == 5
    assert read_receipt(tmp_path).journaled == 4


@pytest.mark.parametrize("journaled", [4, 6])
def test_a_journal_that_the_counts_do_not_describe_is_read(tmp_path: Path, journaled: int) -> None:
    write(tmp_path, 0, numbered(0, 1, 5))
    assert receipt(tmp_path, Counts(offered=9, journaled=journaled)).journaled == 5
