"""A bar for a terminal, a line for each epoch for a file."""

import io
from itertools import count
from types import SimpleNamespace

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


def progress(stream: io.StringIO) -> Console:
    seconds = count()
    return Console(UNITS, epochs=4, stream=stream, clock=lambda: float(next(seconds)))


def test_a_file_gets_a_line_for_each_epoch_and_nothing_in_between() -> None:
    stream = io.StringIO()
    shown = progress(stream)
    for step in range(1, 11):
        shown.iteration(step, 40, LATEST)
    assert stream.getvalue() == ""
    shown.epoch(1, 10, LATEST)
    shown.close()
    assert stream.getvalue() == (
        "epoch 1/4, iteration 10; train loss 0.5, E 46 kcal/mol, q 0.25 e; val E 23 kcal/mol; 10.0 it/s\n"
    )


def test_the_rate_is_that_of_the_epoch() -> None:
    stream = io.StringIO()
    shown = progress(stream)
    shown.iteration(101, 400, {})
    shown.epoch(2, 200, {})
    shown.epoch(3, 300, {})
    assert stream.getvalue().splitlines() == [
        "epoch 2/4, iteration 200; 100.0 it/s",
        "epoch 3/4, iteration 300; 100.0 it/s",
    ]


def test_a_terminal_gets_a_bar_with_the_window_in_the_units_shown() -> None:
    stream = Terminal()
    shown = progress(stream)
    for step in range(31, 41):
        shown.iteration(step, 40, LATEST)
    shown.close()
    last = stream.getvalue().rpartition("\r")[2]
    assert "40/40" in last
    assert "loss 0.75, E 69 kcal/mol" in last


def test_lines_are_shown_before_during_and_after_the_bar() -> None:
    stream = Terminal()
    shown = progress(stream)
    shown.say("before")
    shown.iteration(1, 2, {})
    shown.say("during")
    shown.close()
    shown.say("after")
    text = stream.getvalue()
    assert text.startswith("before\n")
    assert "during\n" in text
    assert text.endswith("after\n")


class Gone(io.StringIO):
    """A terminal that has been closed."""

    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    shown = progress(Gone())
    shown.say("a line")
    for step in (1, 2, 3):
        shown.iteration(step, 6, LATEST)
    shown.epoch(1, 3, LATEST)
    shown.close()


def test_a_bar_shows_what_is_wrong_now_and_no_longer_when_it_is_over() -> None:
    stream = Terminal()
    shown = progress(stream)
    alerts = (SimpleNamespace(title="spike: train_window/loss is 12, usually 1"),)
    shown.iteration(1, 40, LATEST, alerts)
    assert shown._bar is not None
    assert str(shown._bar.postfix).endswith("; ! spike: train_window/loss is 12, usually 1")
    shown.iteration(2, 40, LATEST, ())
    assert "!" not in str(shown._bar.postfix)
    shown.close()
