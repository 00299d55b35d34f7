"""One curve after any sequence of stops: a model of the trainer is terminated, killed and resumed at random moments.

The model publishes, validates and saves in the same order as the trainer of `aimnet2mult`, but trains nothing. Each
attempt is a forked process with a real bus and journal. Its points are delivered to a sink in memory, and to
TensorBoard if it is installed, between and after the attempts.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.telemetry_fakes import Backend, sink_for
from support.tensorboard_kit import curve
from telemetry import Metric, MetricBus, Settings, open_run, read_header, read_run
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.errors import TelemetryError
from telemetry.plugins.optional_imports import is_installed
from telemetry.plugins.registry import Sink, select
from telemetry.records import AnyRecord, Resumed, Scalars
from telemetry.run_folder.atomic_write import write_json

TOTAL, EPOCH, EVERY, VAL_BATCHES = 14, 4, 3, 2
STREAMS = ("train", "train_window", "train_epoch", "val")
SETTINGS = Settings(every=EVERY, poll=0.01)
KILLED = 9
HAS_TENSORBOARD = is_installed("tensorboard")


@dataclass(frozen=True)
class Stop:
    """A signal that an attempt gets at its n-th moment.

    Attributes:
        signal: the signal.
        moment: the number of the moment, from 1.
        durable: whether everything published before is in the journal; otherwise, a kill may lose it.
        delivers: whether the journal is delivered afterwards.
    """

    signal: Literal["SIGTERM", "SIGKILL"]
    moment: int
    durable: bool = True
    delivers: bool = True


class Trainer:
    """A model of the trainer; ``val_every`` is the interval between validations, None for one per epoch."""

    def __init__(self, folder: Path, val_every: int | None, stop: Stop | None) -> None:
        self.folder = folder
        self.val_every = val_every
        self.stop = stop
        self.moments = 0
        self.stopping = self.pending = False
        self.iteration = 0

    def run(self) -> None:
        self.bus = open_run(self.folder, sinks=[], settings=SETTINGS, **self._load())
        self._train(self.bus)
        complete = self.iteration == TOTAL and not self.pending
        self.bus.close("finished" if complete else "preempted", timeout=0)

    def _train(self, bus: MetricBus) -> None:
        if self.pending:
            self._validate(bus)
        while self.iteration < TOTAL and not self.stopping:
            self.iteration += 1
            self._moment()
            final = self.iteration == TOTAL and not bus.due("train", self.iteration)
            group = {stream: self._values() for stream in ("train", "train_window")}
            bus.publish_group(tuple(group), self.iteration, group, final=final)
            if self.val_every is not None and self.iteration % self.val_every == 0:
                self._validate(bus)
            if self.iteration % EPOCH == 0 or self.iteration == TOTAL:
                bus.publish("train_epoch", self.iteration, self._values())
                if self.val_every is None:
                    self._validate(bus)
                self._save(bus)
        self._save(bus)

    def _validate(self, bus: MetricBus) -> None:
        self.pending = False
        for batch in range(1, VAL_BATCHES + 1):
            self._moment()
            if self.stopping and batch < VAL_BATCHES:
                self.pending = True
                return
        bus.publish("val", self.iteration, self._values())
        self._moment()

    def _save(self, bus: MetricBus) -> None:
        bus.flush()
        self._moment()
        write_json(self.folder / "checkpoint.json", [self.iteration, self.pending])
        self._moment()

    def _load(self) -> dict[str, object]:
        if (self.folder / "checkpoint.json").exists():
            self.iteration, self.pending = json.loads((self.folder / "checkpoint.json").read_bytes())
        try:
            read_header(self.folder)
        except TelemetryError:
            return {"metrics": {f"{stream}/loss": Metric() for stream in STREAMS}}
        return {"resume_step": self.iteration}

    def _values(self) -> dict[str, float]:
        return {"loss": 1 / self.iteration}

    def _moment(self) -> None:
        self.moments += 1
        if self.stop is not None and self.moments == self.stop.moment:
            if self.stop.signal == "SIGKILL":
                if self.stop.durable:
                    self.bus.flush()
                os._exit(KILLED)
            self.stopping = True


def expected_steps(val_every: int | None) -> dict[str, list[int]]:
    every = [*range(EVERY, TOTAL, EVERY), TOTAL]
    epochs = [*range(EPOCH, TOTAL, EPOCH), TOTAL]
    val = epochs if val_every is None else list(range(val_every, TOTAL + 1, val_every))
    return {"train": every, "train_window": every, "train_epoch": epochs, "val": val}


def attempt(folder: Path, val_every: int | None, stop: Stop | None) -> None:
    """Run one attempt in a forked process."""
    child = os.fork()
    if not child:
        code = 1
        try:
            Trainer(folder, val_every, stop).run()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, KILLED)


def deliver(folder: Path, sinks: Iterable[Sink]) -> None:
    for sink in sinks:
        delivery = Delivery(folder, sink, SETTINGS, follow=False)
        assert delivery.lease.try_acquire()
        assert delivery.run() in (DeliveryOutcome.COMPLETE, DeliveryOutcome.CAUGHT_UP)


def steps_in(records: Iterable[AnyRecord]) -> dict[str, list[int]]:
    """Return the iterations of each stream as a backend shows them that removes superseded points."""
    steps: dict[str, list[int]] = {stream: [] for stream in STREAMS}
    for record in records:
        if isinstance(record, Scalars):
            steps[record.stream].append(record.step)
        elif isinstance(record, Resumed):
            steps = {stream: [step for step in known if step <= record.step] for stream, known in steps.items()}
    return steps


STOPS = st.lists(
    st.builds(Stop, st.sampled_from(["SIGTERM", "SIGKILL"]), st.integers(1, 25), st.booleans(), st.booleans()),
    min_size=1,
    max_size=5,
)
INTERRUPTED_VALIDATION = [Stop("SIGTERM", 5), Stop("SIGKILL", 5)]


def check_one_curve(stops: list[Stop], val_every: int | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, backend = Path(name) / "run", Backend()
        sinks = [sink_for(backend), *(select(["tensorboard"], {}) if HAS_TENSORBOARD else [])]
        for stop in (*stops, None):
            attempt(folder, val_every, stop)
            if stop is None or (stop.delivers and (folder / "journal-0.jsonl").exists()):
                deliver(folder, sinks)
        expected = expected_steps(val_every)
        run = read_run(folder)
        assert run.status == "finished"
        assert {stream: run.curves[f"{stream}/loss"].steps.tolist() for stream in STREAMS} == expected
        assert steps_in(backend.held) == expected
        for stream in STREAMS if HAS_TENSORBOARD else ():
            assert [point.step for point in curve(folder / "tensorboard", f"{stream}/loss")] == expected[stream]


PROPERTY = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=4, **PROPERTY)
@given(stops=STOPS, val_every=st.sampled_from([None, 2, 3]))
@example(stops=INTERRUPTED_VALIDATION, val_every=None)
@example(stops=[*INTERRUPTED_VALIDATION, Stop("SIGKILL", 5, durable=False), Stop("SIGKILL", 5)], val_every=None)
def test_any_sequence_of_stops_and_resumes_leaves_one_complete_curve_per_stream(
    stops: list[Stop], val_every: int | None
) -> None:
    check_one_curve(stops, val_every)


@pytest.mark.slow
@settings(max_examples=30, **PROPERTY)
@given(stops=STOPS, val_every=st.sampled_from([None, 2, 3]))
def test_many_sequences_of_stops_leave_one_complete_curve_per_stream(stops: list[Stop], val_every: int | None) -> None:
    check_one_curve(stops, val_every)
