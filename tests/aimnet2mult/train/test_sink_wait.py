"""The line about the wait for the sinks at the end of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from aimnet2mult.train.sink_wait import SinkWait
from support.telemetry_fakes import HandMadeRun, eventually
from telemetry.delivery.deadline import Deadline
from telemetry.run_folder.sink_progress import Cursor, SinkProgress, write_progress

BACKGROUND = "continue in the background"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(tmp_path: Path) -> HandMadeRun:
    """Return a run with three points, of which one sink has all, another one, and a third none."""
    made = HandMadeRun(tmp_path / "run")
    made.points(1, 2, 3)
    (made.folder / "sinks").mkdir(exist_ok=True)
    is_at(made, "first", "closed", 3)
    is_at(made, "second", "delivering", 1)
    is_at(made, "third", "retrying", 0, "third of x 1: OSError: connection refused by http://host:5000/api")
    return made


def is_at(run: HandMadeRun, name: str, state: Any, accepted: int, error: str = "") -> None:
    cursors = {"here": Cursor(accepted=accepted, closed="finished" if state == "closed" else None)}
    progress = SinkProgress(state=state, destination="here", cursors=cursors, last_error=error)
    write_progress(run.folder, name, progress)


def wait_for(run: HandMadeRun, stream: io.StringIO, seconds: float = 30.0, delay: float = 0.01) -> SinkWait:
    names = ["first", "second", "third"]
    return SinkWait(run.folder, names, Deadline(seconds), on_interrupt=BACKGROUND, stream=stream, delay=delay)


def test_a_file_gets_one_line_with_what_is_pending_and_why(run: HandMadeRun) -> None:
    stream = io.StringIO()
    with wait_for(run, stream):
        eventually(stream.getvalue)
    assert stream.getvalue() == (
        "waiting up to 30 s for second (2 records), third (3 records; connection refused); "
        "Ctrl-C: continue in the background\n"
    )


def test_a_terminal_gets_a_countdown_in_place_that_disappears_and_leaves_other_lines(run: HandMadeRun) -> None:
    stream = Terminal()
    deadline = Deadline(30.0)
    names = ["second"]
    with SinkWait(run.folder, names, deadline, on_interrupt=BACKGROUND, stream=stream, delay=0.01) as wait:
        eventually(lambda: "up to 30 s" in stream.getvalue())
        wait.say("warning: a line")
        deadline.shorten(2.0)
        eventually(lambda: "up to 2 s" in stream.getvalue() or "up to 1 s" in stream.getvalue())
    *shown, last = stream.getvalue().split("\r\x1b[K")
    assert last == ""
    assert shown.count("Ctrl-C: continue in the background\n") == 1
    assert "warning: a line\n" in shown
    assert all(len(line) < 80 for line in shown), "a wrapped line could not be replaced"


def test_a_short_wait_shows_nothing(run: HandMadeRun) -> None:
    stream = io.StringIO()
    with wait_for(run, stream, delay=60.0):
        pass
    assert stream.getvalue() == ""


def test_nothing_is_shown_if_all_sinks_have_everything(run: HandMadeRun) -> None:
    for name in ("second", "third"):
        is_at(run, name, "closed", 3)
    stream = Terminal()
    with wait_for(run, stream) as wait:
        wait._thread.join(0.2)
    assert "waiting" not in stream.getvalue()


class Gone(io.StringIO):
    """A closed terminal."""

    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_closed_terminal_does_not_disturb_the_end(run: HandMadeRun) -> None:
    with wait_for(run, Gone()) as wait:
        wait.say("a line")


def test_a_run_folder_that_cannot_be_read_does_not_disturb_the_end(run: HandMadeRun, tmp_path: Path) -> None:
    run.folder.rename(tmp_path / "moved")
    stream = io.StringIO()
    with wait_for(run, stream) as wait:
        wait._thread.join(0.2)
    assert stream.getvalue() == ""
