"""Whatever a broken sink returns or raises stays in the delivery to it, with a readable message."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from support.telemetry_fakes import FakeClock, HandMadeRun
from telemetry import Settings
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.plugins.registry import Sink
from telemetry.run_folder.paths import progress_path
from telemetry.run_folder.sink_progress import SinkProgress, read_progress
from telemetry.sink_api import Opened, SinkRejected, SinkUnavailable, hookimpl


class Text(str):
    """A text whose methods fail."""

    __slots__ = ()

    def __len__(self) -> int:
        raise SystemExit

    def __getitem__(self, key: Any) -> str:
        raise KeyboardInterrupt


class Custom(BaseException):
    """An exception that ``except Exception`` does not catch."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise Custom


class Endless(Exception):
    def __str__(self) -> str:
        return "text " * 2_000_000


class Surrogates(SinkUnavailable):
    def __str__(self) -> str:
        return "\ud800"


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd")


class NoText(Exception):
    def __str__(self) -> Any:
        return 5  # noqa: PLE0307 - the fault


class UnprintableRejection(SinkRejected):
    def __str__(self) -> str:
        raise Custom


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError


def generator() -> Iterator[Opened]:
    yield Opened("here")


def opened_with(**values: Any) -> Opened:
    return Opened(**{"destination": "here"} | values)


RETURNED_BY_OPEN: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "the class": lambda: Opened,
    "a generator": generator,
    "a value without a text": NoRepr,
    "a destination of another type": lambda: opened_with(destination=5),
    "bytes as the destination": lambda: opened_with(destination=b"here"),
    "a text of another class": lambda: opened_with(destination=Text("here")),
    "a lone surrogate": lambda: opened_with(destination="\ud800"),
    "a lone surrogate as the view": lambda: opened_with(view="\udfff"),
    "a destination of 10 MB": lambda: opened_with(destination="x" * 10_000_000),
    "no view": lambda: opened_with(view=None),
    "True as last_seq": lambda: opened_with(last_seq=True),
    "a text as last_seq": lambda: opened_with(last_seq="5"),
    "a float as last_seq": lambda: opened_with(last_seq=5.0),
    "NaN as last_seq": lambda: opened_with(last_seq=float("nan")),
    "a negative last_seq": lambda: opened_with(last_seq=-1),
    "a huge last_seq": lambda: opened_with(last_seq=10**40),
    "a last_seq beyond the journal": lambda: opened_with(last_seq=10**9),
}
RETURNED_BY_WRITE: dict[str, object] = {
    "a text": "1",
    "True": True,
    "a float": 1.0,
    "NaN": float("nan"),
    "a huge number": 10**40,
    "a negative number": -1,
    "a list": [1],
    "a value without a text": NoRepr(),
}
RAISED = [
    Custom(),
    SystemExit("leave"),
    KeyboardInterrupt(),
    GeneratorExit(),
    Unprintable(),
    Endless(),
    Surrogates(),
    OddText(),
    NoText(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ExceptionGroup("group", [Unprintable()]),
]


class BrokenSink:
    """A sink whose hooks call the given functions."""

    name = "broken"

    def __init__(self, **hooks: Callable[[], object]) -> None:
        self._hooks = {"open": lambda: Opened("here"), "write": lambda: None, "close": lambda: None} | hooks

    @hookimpl
    def sink_open(self) -> Any:
        return self._hooks["open"]()

    @hookimpl
    def sink_write(self) -> Any:
        return self._hooks["write"]()

    @hookimpl
    def sink_close(self) -> None:
        self._hooks["close"]()


def deliver(folder: Path, **hooks: Callable[[], object]) -> tuple[DeliveryOutcome, SinkProgress, list[str]]:
    """Deliver a run to a broken sink; return the outcome, the saved progress and the logged lines."""
    run = HandMadeRun(folder)
    run.points(1, 2)
    run.close()
    clock, logged = FakeClock(), []
    delivery = Delivery(
        folder,
        Sink("broken", {}, None, BrokenSink(**hooks)),
        Settings(linger=3.0),
        follow=False,
        wait=clock.sleep,
        log=logged.append,
        clock=clock,
    )
    delivery.lease.acquire()
    outcome = delivery.run()
    progress = read_progress(folder, "broken")
    assert progress is not None
    for line in (*logged, progress.last_error):
        assert len(line) < 2_000
        assert line.encode()
    return outcome, progress, logged


class GreedySink(BrokenSink):
    """A sink that empties the list of records."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    @hookimpl
    def sink_write(self, records: list[Any]) -> None:
        self.seen += [record.seq for record in records]
        records.clear()


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def hook() -> NoReturn:
        raise error

    return hook


@pytest.mark.parametrize("returned", RETURNED_BY_OPEN.values(), ids=RETURNED_BY_OPEN)
def test_a_wrong_result_of_sink_open_is_a_failure_of_the_sink(tmp_path: Path, returned: Callable[[], object]) -> None:
    outcome, progress, _ = deliver(tmp_path / "run", open=returned)
    assert outcome is DeliveryOutcome.GAVE_UP
    assert "PluginError: sink_open of broken returned" in progress.last_error
    assert progress.cursor.accepted == 0


@pytest.mark.parametrize("returned", RETURNED_BY_WRITE.values(), ids=RETURNED_BY_WRITE)
def test_a_wrong_result_of_sink_write_is_a_failure_of_the_sink(tmp_path: Path, returned: object) -> None:
    outcome, progress, _ = deliver(tmp_path / "run", write=lambda: returned)
    assert outcome is DeliveryOutcome.GAVE_UP
    assert "PluginError: sink_write of broken returned" in progress.last_error


@pytest.mark.parametrize("hook", ["open", "write", "close"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_an_exception_of_any_class_is_a_failure_of_the_sink(tmp_path: Path, hook: str, error: BaseException) -> None:
    outcome, progress, logged = deliver(tmp_path / "run", **{hook: raising(error)})
    assert outcome is DeliveryOutcome.GAVE_UP
    assert progress.last_error.startswith(f"broken: {type(error).__name__}")
    assert any(f"delivery to broken failed ({type(error).__name__}" in line for line in logged)


def test_a_sink_that_empties_the_list_of_records_receives_each_record_once(tmp_path: Path) -> None:
    run = HandMadeRun(tmp_path / "run")
    run.points(1, 2)
    run.close()
    sink = GreedySink()
    chosen = Sink("broken", {}, None, sink)
    delivery = Delivery(run.folder, chosen, Settings(), follow=False, stop=lambda: len(sink.seen) > 2)
    delivery.lease.acquire()
    assert delivery.run() is DeliveryOutcome.COMPLETE
    assert sink.seen == [1, 2]


@pytest.mark.parametrize("hook", ["open", "write", "close"])
def test_a_rejection_without_a_readable_message_is_a_rejection(tmp_path: Path, hook: str) -> None:
    outcome, progress, logged = deliver(tmp_path / "run", **{hook: raising(UnprintableRejection())})
    assert outcome is (DeliveryOutcome.COMPLETE if hook == "write" else DeliveryOutcome.REJECTED)
    assert progress.cursor.rejected == (2 if hook == "write" else 0)
    assert progress.last_error == "broken: UnprintableRejection"
    assert any("no reason given" in line for line in logged)


def test_a_sink_with_a_new_long_destination_at_each_opening_keeps_its_progress_readable(tmp_path: Path) -> None:
    number = itertools.count()
    run = HandMadeRun(tmp_path / "run")
    run.points(1)
    clock = FakeClock()
    for _ in range(60):
        sink = Sink("broken", {}, None, BrokenSink(open=lambda: Opened(f"{next(number):04}" + "é" * 3_996)))
        delivery = Delivery(run.folder, sink, Settings(), follow=False, wait=clock.sleep, clock=clock)
        delivery.lease.acquire()
        delivery.run()
    assert progress_path(run.folder, "broken").stat().st_size < 1 << 20
    kept = read_progress(run.folder, "broken")
    assert kept is not None
    assert kept.destination.startswith(f"{next(number) - 1:04}")
