"""A progress bar on a terminal, a line per epoch in a file."""

import io
from itertools import count
from types import SimpleNamespace
from typing import Any

from aimnet2mult.train.console import Console

UNITS = {"energy": ("kcal/mol", 23.0), "charges": ("e", 1.0)}
LATEST = {
    "train_epoch/loss": 0.5,
    "train_epoch/E_rmse": 2.0,
    "train_epoch/q_rmse": 0.25,
    "train_window/loss": 0.75,
    "train_window/E_rmse": 3.0,
    "val/E_rmse": 1.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(stream: io.StringIO) -> Console:
    seconds = count()
    return Console(UNITS, epochs=4, stream=stream, clock=lambda: float(next(seconds)))


def test_a_file_gets_one_line_per_epoch() -> None:
    stream = io.StringIO()
    shown = console(stream)
    for step in range(1, 11):
        shown.iteration(step, 40, LATEST)
    assert stream.getvalue() == ""
    shown.epoch(1, 10, LATEST)
    shown.close()
    assert stream.getvalue() == (
        "epoch 1/4, iteration 10; train loss 0.5, E 46 kcal/mol, q 0.25 e; val E 23 kcal/mol; 10.0 it/s\n"
    )


def test_skipped_steps_are_shown_if_there_are_any() -> None:
    stream = io.StringIO()
    shown = console(stream)
    for epoch, skipped in enumerate((0.0, 1.0, 12.0), start=1):
        shown.epoch(epoch, epoch, {"train_epoch/loss": 0.5, "train_epoch/skipped_steps": skipped})
    assert [line.split("; ")[1] for line in stream.getvalue().splitlines()] == [
        "train loss 0.5",
        "train loss 0.5, 1 skipped step",
        "train loss 0.5, 12 skipped steps",
    ]


def test_skipped_validation_structures_are_shown_if_there_are_any() -> None:
    stream = io.StringIO()
    shown = console(stream)
    shown.epoch(1, 10, {"val/loss": 0.5, "val/skipped_structures": 0.0})
    shown.epoch(2, 20, {"val/loss": 0.5, "val/skipped_structures": 3.0})
    assert [line.split("; ")[1] for line in stream.getvalue().splitlines()] == [
        "val loss 0.5",
        "val loss 0.5, 3 skipped structures",
    ]


def test_the_rate_is_the_mean_over_the_epoch() -> None:
    stream = io.StringIO()
    shown = console(stream)
    shown.iteration(101, 400, {})
    shown.epoch(2, 200, {})
    shown.epoch(3, 300, {})
    assert stream.getvalue().splitlines() == [
        "epoch 2/4, iteration 200; 100.0 it/s",
        "epoch 3/4, iteration 300; 100.0 it/s",
    ]


def test_a_terminal_gets_a_bar_with_the_window_in_display_units() -> None:
    stream = Terminal()
    shown = console(stream)
    for step in range(31, 41):
        shown.iteration(step, 40, LATEST)
    shown.close()
    last = stream.getvalue().rpartition("\r")[2]
    assert "40/40" in last
    assert "loss 0.75, E 69 kcal/mol" in last


def test_lines_are_printed_before_during_and_after_the_bar() -> None:
    stream = Terminal()
    shown = console(stream)
    shown.say("before")
    shown.iteration(1, 2, {})
    shown.say("during")
    shown.close()
    shown.say("after")
    text = stream.getvalue()
    assert text.startswith("before\n")
    assert "during\n" in text
    assert text.endswith("after\n")


def test_lines_and_alerts_contain_no_credentials() -> None:
    stream = Terminal()
    shown = console(stream)
    shown.say("cannot reach https://me:hunter2@host")
    alert: Any = SimpleNamespace(title="no answer from https://me:hunter2@host")
    shown.iteration(1, 2, LATEST, (alert,))
    shown.close()
    assert stream.getvalue().count("https://***@host") == 2
    assert "hunter2" not in stream.getvalue()


class Gone(io.StringIO):
    """A closed terminal."""

    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_closed_terminal_raises_no_error() -> None:
    shown = console(Gone())
    shown.say("a line")
    for step in (1, 2, 3):
        shown.iteration(step, 6, LATEST)
    shown.epoch(1, 3, LATEST)
    shown.close()


def test_the_bar_shows_alerts_while_they_last() -> None:
    alert: Any = SimpleNamespace(title="spike: train_window/loss is 12")
    for alerts_by_iteration, shown in (([(alert,)], True), ([(alert,), ()], False)):
        stream = Terminal()
        progress = console(stream)
        for step, alerts in enumerate(alerts_by_iteration, start=1):
            progress.iteration(step, 40, LATEST, alerts)
        progress.close()
        last = stream.getvalue().rpartition("\r")[2]
        assert ("; ! spike: train_window/loss is 12" in last) == shown
