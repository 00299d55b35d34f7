"""A progress bar on a terminal, lines at intervals in a file, and a line per epoch."""

import io
from itertools import count
from types import SimpleNamespace
from typing import Any

from aimnet2mult.train.console import Console

UNITS = {"E": ("kcal/mol", 23.0), "q": ("e", 1.0)}
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


def console(stream: io.StringIO, **options: Any) -> Console:
    seconds = count()
    return Console(UNITS, epochs=4, stream=stream, clock=lambda: float(next(seconds)), **options)


def test_a_file_gets_a_line_as_soon_as_there_is_a_loss_and_then_at_intervals() -> None:
    stream = io.StringIO()
    shown = console(stream, interval=30.0)
    shown.iteration(1, 400, {})
    shown.iteration(2, 400, {"train/loss": 2.25, "train/E_rmse": 4.0})
    for step in range(3, 41):
        shown.iteration(step, 400, LATEST)
    # The clock advances by a second with each iteration.
    assert stream.getvalue().splitlines() == [
        "iteration 2/400; 1 it/s, 06:38 left; first batch: loss 2.25, E 92 kcal/mol",
        "iteration 32/400; 1 it/s, 06:08 left; loss 0.75, E 69 kcal/mol",
    ]


def test_without_a_loss_a_file_gets_a_line_after_the_interval() -> None:
    stream = io.StringIO()
    shown = console(stream, interval=5.0)
    for step in range(1, 8):
        shown.iteration(step, 400, {})
    assert stream.getvalue() == "iteration 6/400; 1 it/s, 06:34 left\n"


def test_a_file_gets_one_line_per_epoch() -> None:
    stream = io.StringIO()
    shown = console(stream)
    for step in range(1, 11):
        shown.iteration(step, 40, {})
    assert stream.getvalue() == ""
    shown.epoch(1, 10, LATEST)
    shown.close()
    assert stream.getvalue() == ("epoch 1/4, iteration 10; train loss 0.5; val E 23 kcal/mol\n")


def test_without_a_validation_the_line_of_the_epoch_has_the_errors_of_training() -> None:
    stream = io.StringIO()
    console(stream).epoch(1, 10, {name: value for name, value in LATEST.items() if not name.startswith("val")})
    assert stream.getvalue() == "epoch 1/4, iteration 10; train loss 0.5, E 46 kcal/mol, q 0.25 e\n"


def test_lines_with_all_labels_fit_into_120_columns() -> None:
    stream = io.StringIO()
    units = {
        "E": ("kcal/mol", 23.06),
        "F": ("kcal/mol/Å", 23.06),
        "q": ("e", 1.0),
        "s": ("e", 1.0),
    }
    latest = {
        f"{part}/{name}": 0.123456
        for part in ("train_window", "train_epoch", "val")
        for name in ("loss", "E_rmse", "F_rmse", "q_rmse", "s_rmse")
    }
    shown = Console(units, epochs=20, stream=stream, clock=lambda: now)
    now = 0.0
    shown.iteration(1, 20_000, latest)
    now = 300.0
    shown.iteration(12_345, 20_000, latest)
    shown.epoch(13, 13_000, latest)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 120


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


def test_the_time_left_counts_validations_between_the_epochs() -> None:
    stream = io.StringIO()
    shown = Console(UNITS, epochs=4, stream=stream, clock=lambda: now)
    now = 0.0
    shown.iteration(100, 400, {})
    now = 50.0
    shown.iteration(200, 400, {})
    now = 400.0
    shown.iteration(300, 400, {})
    assert stream.getvalue().splitlines() == [
        "iteration 200/400; 2 it/s, 01:40 left",
        "iteration 300/400; 0.5 it/s, 03:20 left",
    ]


def test_a_terminal_gets_a_bar_of_the_epoch_with_the_window_in_display_units() -> None:
    stream = Terminal()
    shown = console(stream)
    for step in range(35, 41):
        shown.iteration(step, 80, LATEST)
    shown.close()
    *_, last, cleared, _ = stream.getvalue().split("\r")
    assert "epoch 2/4 |" in last
    assert "20/20" in last
    assert ", 1 it/s, 00:40 left; loss 0.75, E 69 kcal/mol" in last
    assert not cleared.strip()


def test_each_epoch_has_a_bar_of_its_own_and_leaves_one_line() -> None:
    stream = Terminal()
    shown = console(stream)
    for epoch, steps in ((1, (1, 2, 3)), (2, (4, 5, 6))):
        for step in steps:
            shown.iteration(step, 12, LATEST)
        shown.epoch(epoch, 3 * epoch, LATEST)
    shown.close()
    written = stream.getvalue()
    assert written.index("epoch 1/4 |") < written.index("epoch 1/4, iteration 3;") < written.index("epoch 2/4 |")
    assert "1/3" in written.partition("epoch 2/4 |")[2]


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
    stream = Terminal()
    progress = console(stream)
    progress.iteration(1, 40, LATEST, (alert,))
    assert ", ! spike: train_window/loss is 12; loss 0.75" in stream.getvalue().rpartition("\r")[2]
    progress.iteration(2, 40, LATEST, (alert, alert))
    assert ", ! 2 alerts; " in stream.getvalue().rpartition("\r")[2]
    progress.iteration(3, 40, LATEST)
    assert "spike" not in stream.getvalue().rpartition("\r")[2]
    progress.close()
