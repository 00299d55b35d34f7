"""A real delivery of a growing run to the sink under test, while its backend fails."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.journal.writer import JournalWriter
from telemetry.plugins.hook_relay import Hooks
from telemetry.plugins.hookspecs import Opened
from telemetry.plugins.registry import Sink
from telemetry.records import Closed, Record, RunRecord, Status
from telemetry.run_folder.sink_progress import read_progress
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe
from telemetry.settings import Settings
from telemetry.testing.kit import run_in
from telemetry.testing.points import STARTED, sample

Fault = Callable[[], AbstractContextManager[Any]]
"""A function that returns a context manager during which the backend fails."""

BATCH = 10
"""Number of records in each batch."""
MAX_RETRIES = 20
"""Number of retries after the last fault; the sink must have recovered by then."""
_NAME = "sink"
_REMEDY = (
    'Convert all exceptions of the backend: decorate the hook with `backend_errors("name")` of telemetry.sink_api, or '
    "raise SinkUnavailable (retry) or SinkRejected (never retry) yourself."
)
_TEMPORARY = "Raise SinkUnavailable for temporary faults; SinkRejected ends delivery."


@dataclasses.dataclass(frozen=True)
class Script:
    """What happens to a run, and to its backend.

    Attributes:
        failing: for each batch, whether the backend fails from its recording to the next wait of delivery.
        close_fails: whether the backend fails at the first attempt to close its run; None for a run that stays open.
        batches_fault: a fault that begins with the first of consecutive failing batches and ends after the last one.
        calls_fault: a fault that begins and ends with each call of a hook during failing batches.
        may_reject: whether the sink may raise SinkRejected because of the fault.
    """

    failing: Sequence[bool] = (False,)
    close_fails: bool | None = False
    batches_fault: Fault = nullcontext
    calls_fault: Fault = nullcontext
    may_reject: bool = False


class Rehearsal:
    """A delivery by the loop that serves real runs, without its waiting times.

    The sink is opened first. Then the run grows by a batch whenever delivery waits, because it has caught up or is
    about to retry. Only records after the last acknowledged one are delivered again.

    Args:
        folder: the run folder, which must not contain a run.
        make_sink: function that returns a new instance of the sink.
        script: what happens meanwhile.

    Attributes:
        last_seq: sequence number of the last record before the one that closes the run.
    """

    def __init__(self, folder: Path, make_sink: Callable[[], object], script: Script) -> None:
        self.last_seq = 0
        self._folder = folder
        self._make_sink = make_sink
        self._script = script
        self._events = self._play()
        self._is_over = False
        self._is_failing = False
        self._problem = ""
        self._journal = JournalWriter(folder, run_in(folder), clock=lambda: STARTED)
        self._delivery = self._new_delivery()

    @property
    def durable(self) -> int:
        """The number of the last record that delivery considers durable."""
        progress = read_progress(self._folder, _NAME)
        return 0 if progress is None else progress.cursor.durable

    def run(self) -> None:
        """Deliver the run.

        Raises:
            AssertionError: a hook raised an error that delivery cannot interpret, or the sink does not recover.
        """
        with warnings.catch_warnings():
            # A dropped instance may hold open files.
            warnings.simplefilter("ignore", ResourceWarning)
            while (outcome := self._delivery.run()) is DeliveryOutcome.REJECTED and not self._problem:
                # `status` shows that the sink has rejected the run; the user fixes the cause and runs `telemetry sync`.
                self._continue()
                self._delivery = self._new_delivery()
        # Ends a fault that was still present at the last call.
        list(self._events)
        self._journal.close()
        assert not self._problem, self._problem
        progress = read_progress(self._folder, _NAME)
        assert outcome is DeliveryOutcome.COMPLETE or self._script.close_fails is None, (
            f"the sink still fails after {MAX_RETRIES} retries on a healthy backend: {progress and progress.last_error}"
        )

    def _call(self, hook: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call a hook, under the fault if there is one at the moment, and check what it raises."""
        try:
            with self._script.calls_fault() if self._is_failing else nullcontext():
                return function(**arguments)
        except SinkUnavailable:
            raise
        except SinkRejected as error:
            if not (self._is_failing and self._script.may_reject):
                self._problem = self._problem or f"{hook} raised {error!r} because of a temporary fault. {_TEMPORARY}"
            raise
        except Exception as error:
            self._problem = self._problem or f"{hook} raised {type(error).__name__}: {error}. {_REMEDY}"
            raise

    def _new_delivery(self) -> Delivery:
        return _delivery(
            self._folder,
            lambda: _WatchedHooks(_hooks(self._make_sink()), self._call),
            wait=self._continue,
            stop=lambda: self._is_over or bool(self._problem),
        )

    def _continue(self, _: float = 0.0) -> None:
        self._is_over = next(self._events, None) is None

    def _play(self) -> Iterator[str]:
        for fails, batches in itertools.groupby(self._script.failing):
            self._is_failing = fails
            with self._script.batches_fault() if fails else nullcontext():
                for _ in batches:
                    self._record(sample(self.last_seq + 1, self.last_seq + BATCH))
                    self.last_seq += BATCH
                    yield "a batch"
        if self._script.close_fails is None:
            return
        self._is_failing = self._script.close_fails
        with self._script.batches_fault() if self._is_failing else nullcontext():
            self._record([Closed(seq=self.last_seq + 1, time=STARTED + 10**8, status="finished")])
            yield "the end of the run"
        self._is_failing = False
        yield from itertools.repeat("a retry", MAX_RETRIES)

    def _record(self, records: Sequence[Any]) -> None:
        remaining = iter(records)
        for _ in records:
            self._journal.append(lambda _: next(remaining))
        self._journal.commit()


def finish(folder: Path, make_sink: Callable[[], object]) -> None:
    """Deliver the rest of a run whose trainer and delivery were killed, as ``telemetry sync`` does."""
    dead = TrainerLivenessProbe(folder, timeout=0.0)
    outcome = _delivery(folder, lambda: _hooks(make_sink()), liveness=dead).run()
    assert outcome is DeliveryOutcome.COMPLETE, outcome.value


class _NewInstances(Sink):
    """A sink whose hooks are those of a new instance for each opening; ``instance`` returns them."""

    def create(self) -> Hooks:
        hooks: Hooks = self.instance()  # type: ignore[operator]
        return hooks


class _WatchedHooks:
    """Hooks whose calls pass through a function of the name, the hook and its arguments."""

    def __init__(self, hooks: Hooks, call: Callable[[str, Callable[..., Any], dict[str, Any]], Any]) -> None:
        self._hooks = hooks
        self._call = call

    def sink_open(self, *, run: RunRecord, folder: Path) -> Opened:
        opened: Opened = self._call("sink_open", self._hooks.sink_open, {"run": run, "folder": folder})
        return opened

    def sink_write(self, *, records: Sequence[Record]) -> int | None:
        durable: int | None = self._call("sink_write", self._hooks.sink_write, {"records": records})
        return durable

    def sink_close(self, *, status: Status, time: int, reason: str) -> None:
        self._call("sink_close", self._hooks.sink_close, {"status": status, "time": time, "reason": reason})


def _hooks(sink: object) -> Hooks:
    return Sink(_NAME, {}, None, sink).create()


def _delivery(folder: Path, create: Callable[[], Hooks], **options: Any) -> Delivery:
    """Return a delivery that holds its lease, and for which no time passes."""
    delivery = Delivery(folder, _NewInstances(_NAME, {}, None, create), Settings(), clock=lambda: 0.0, **options)
    delivery.lease.acquire()
    return delivery
