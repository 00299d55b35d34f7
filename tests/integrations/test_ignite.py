"""``attach`` publishes the outputs and metrics of ignite engines without waiting for a device."""

from __future__ import annotations

import gc
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average, ConfusionMatrix

from support.host_reads import no_host_reads
from telemetry import Metric, MetricBus, NullBus, Settings, open_run
from telemetry.integrations.ignite import attach, output
from telemetry.journal.reader import JournalReader
from telemetry.records import Scalars

NAMES = ("loss", "lr", "error", "mean", "a", "b", "count", "half", "one")
METRICS = {f"{stream}/{name}": Metric() for stream in ("train", "train_window", "train_epoch", "val") for name in NAMES}
EVERY = 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def bus(run: Path) -> Iterator[MetricBus]:
    with open_bus(run) as bus:
        yield bus


def open_bus(run: Path, every: int = EVERY, **others: Any) -> MetricBus:
    return open_run(run, metrics=METRICS, sinks=[], settings=Settings(every=every), **others)


def points(bus: MetricBus, stream: str) -> dict[int, Mapping[str, float]]:
    """Return the journaled values of a stream by iteration."""
    assert bus.flush()
    records = JournalReader(bus.folder).read(1000, live=False)
    return {r.step: r.values for r in records if isinstance(r, Scalars) and r.stream == stream}


def engine(step: Callable[[int], Any] = float) -> Engine:
    """Return an engine whose batches are numbers and whose output is ``step(batch)``."""
    return Engine(lambda _, batch: step(batch))


class RecordingBus:
    """A bus that keeps published callables until ``written`` runs them."""

    def __init__(self, every: int) -> None:
        self.asked: list[int] = []
        self.every = every
        self.waiting: list[tuple[int, bool, Callable[[], Any]]] = []

    def due(self, stream: str, step: int) -> bool:
        self.asked.append(step)
        return stream in {"train_epoch", "val"} or step % self.every == 0

    def publish(self, stream: str, step: int, values: Callable[[], Any]) -> None:
        self.publish_group((stream,), step, lambda: {stream: values()})

    def publish_group(self, _: Sequence[str], step: int, values: Callable[[], Any], *, final: bool = False) -> None:
        self.waiting.append((step, final, values))

    def written(self) -> list[tuple[int, Any]]:
        return [(step, values()) for step, _, values in self.waiting]


def test_outputs_of_due_iterations_and_of_the_last_are_published_as_loss(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus)
    trainer.run(range(10, 15), max_epochs=2)
    assert points(bus, "train") == {4: {"loss": 13.0}, 8: {"loss": 12.0}, 10: {"loss": 14.0}}


def test_a_due_last_iteration_has_one_point(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus)
    trainer.run(range(8))
    assert list(points(bus, "train")) == [4, 8]
    assert bus.counts().offered == 2


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda x: {"a": x, "b": torch.tensor(x / 2)}, {"a": 4.0, "b": 2.0}),
        (lambda x: torch.tensor([[float(x)]], requires_grad=True), {"loss": 4.0}),
        (lambda x: torch.tensor(x, dtype=torch.bfloat16), {"loss": 4.0}),
        (np.float32, {"loss": 4.0}),
        (lambda x: math.nan if x == 4 else x, {"loss": math.nan}),
    ],
)
def test_an_output_may_be_a_number_or_a_mapping_of_numbers(
    bus: MetricBus, step: Callable[[int], Any], expected: dict[str, float]
) -> None:
    trainer = engine(step)
    attach(trainer, bus)
    trainer.run(range(1, 5))
    assert points(bus, "train")[4] == pytest.approx(expected, nan_ok=True)


def test_values_is_called_only_at_due_iterations_and_at_the_last() -> None:
    recording, asked = RecordingBus(4), []

    def values(engine: Engine) -> dict[str, float]:
        asked.append(engine.state.iteration)
        return {"a": 1.0}

    trainer = engine()
    attach(trainer, recording, values=values)  # type: ignore[arg-type]
    trainer.run(range(10))
    assert asked == [4, 8, 10]
    assert recording.asked == list(range(1, 11))


@pytest.mark.parametrize("length", [{"max_epochs": 1}, {"max_iters": 6}])
def test_values_can_read_the_batch_of_the_last_iteration(bus: MetricBus, length: dict[str, int]) -> None:
    trainer = engine()
    attach(trainer, bus, values=lambda engine: {"a": engine.state.batch})
    trainer.run(range(10, 16), **length)
    assert points(bus, "train") == {4: {"a": 13.0}, 6: {"a": 15.0}}


def test_the_last_point_is_recorded_before_handlers_of_the_end_of_the_epoch(bus: MetricBus) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    trainer = engine()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: optimizer.param_groups[0].update(lr=0.5))
    attach(trainer, bus, optimizer=optimizer)
    trainer.run(range(5))
    assert points(bus, "train")[5]["lr"] == 1.0


def test_the_window_has_the_mean_of_all_iterations_since_the_last_point(bus: MetricBus) -> None:
    trainer = engine(lambda x: torch.tensor(x, dtype=torch.float32))
    attach(trainer, bus, window=True)
    trainer.run(range(10))
    means = {4: {"loss": 1.5}, 8: {"loss": 5.5}, 10: {"loss": 8.5}}
    assert points(bus, "train_window") == means
    assert list(points(bus, "train")) == list(means)


def test_the_window_is_summed_in_double_precision(bus: MetricBus) -> None:
    data = [1e8, 1.0, 1.0, 2.0]
    trainer = engine(lambda x: torch.tensor(x, dtype=torch.float32))
    attach(trainer, bus, window=True)
    trainer.run(data)
    assert points(bus, "train_window")[4]["loss"] == sum(data) / 4


def test_a_value_is_averaged_over_the_iterations_that_have_it(bus: MetricBus) -> None:
    trainer = engine(lambda x: {"a": x} if x % 2 else {"a": x, "b": x})
    attach(trainer, bus, window=True)
    trainer.run(range(1, 5))
    assert points(bus, "train_window") == {4: {"a": 2.5, "b": 3.0}}


def test_the_learning_rate_is_that_of_the_iteration(bus: MetricBus) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    trainer = engine()

    @trainer.on(Events.ITERATION_STARTED)
    def _decay(engine: Engine) -> None:
        optimizer.param_groups[0]["lr"] = 1 / engine.state.iteration

    attach(trainer, bus, optimizer=optimizer)
    trainer.run(range(8))
    assert points(bus, "train") == {4: {"loss": 3.0, "lr": 0.25}, 8: {"loss": 7.0, "lr": 0.125}}


def test_trainer_metrics_are_published_at_the_end_of_each_epoch(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus)
    # Attached after the bus; ignite computes it in a separate handler at the end of the epoch.
    Average().attach(trainer, "mean")
    trainer.run(range(3), max_epochs=2)
    assert points(bus, "train_epoch") == {3: {"mean": 1.0}, 6: {"mean": 1.0}}


def test_an_epoch_without_metrics_has_no_point(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus)
    trainer.run(range(3))
    assert points(bus, "train_epoch") == {}
    assert bus.counts().lost == 0


def test_validation_metrics_are_published_at_the_iteration_of_the_trainer(bus: MetricBus) -> None:
    trainer, validator = engine(), engine()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: validator.run(range(7)))
    attach(trainer, bus, validator=validator)
    Average().attach(validator, "mean")
    validator.run(range(5))
    trainer.run(range(3), max_epochs=2)
    assert points(bus, "val") == {0: {"mean": 2.0}, 3: {"mean": 3.0}, 6: {"mean": 3.0}}


def test_mappings_count_as_several_metrics_and_other_values_are_omitted(bus: MetricBus) -> None:
    trainer, validator = engine(), Engine(lambda _, batch: batch)
    attach(trainer, bus, validator=validator)
    ConfusionMatrix(2).attach(validator, "matrix")

    @validator.on(Events.EPOCH_COMPLETED)
    def _compute(engine: Engine) -> None:
        engine.state.metrics |= {"both": {"half": 0.5, "one": torch.ones(1)}, "half": 0.5, "name": "x"}

    validator.run([(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))])
    assert points(bus, "val") == {0: {"half": 0.5, "one": 1.0}}


def test_the_last_iteration_of_a_terminated_trainer_is_published(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus, window=True)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), trainer.terminate)
    trainer.run(range(100))
    assert points(bus, "train") == {4: {"loss": 3.0}, 6: {"loss": 5.0}}
    assert points(bus, "train_window") == {4: {"loss": 1.5}, 6: {"loss": 4.5}}


def test_the_last_iteration_of_a_trainer_that_does_not_complete_is_published(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda: trainer.terminate(skip_completed=True))
    trainer.run(range(100))
    assert list(points(bus, "train")) == [4, 6]


def test_the_last_iteration_over_data_of_unknown_length_is_published(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus)
    trainer.run(iter(range(6)))
    assert points(bus, "train") == {4: {"loss": 3.0}, 6: {"loss": 5.0}}


def test_a_second_run_of_a_trainer_continues_the_iterations(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus, window=True)
    trainer.run(range(6), max_epochs=1)
    trainer.run(range(6), max_epochs=2)
    assert list(points(bus, "train")) == [4, 6, 8, 12]
    assert points(bus, "train_window")[8] == {"loss": 0.5}


def test_a_resumed_run_continues_after_the_iteration_of_the_trainer(run: Path) -> None:
    trainer = engine()
    with open_bus(run) as bus:
        attach(trainer, bus)
        trainer.run(range(5), max_epochs=1)
    state = trainer.state_dict()
    trainer = engine()
    trainer.load_state_dict(state)
    with open_bus(run, resume_step=trainer.state.iteration) as bus:
        attach(trainer, bus)
        trainer.run(range(5), max_epochs=2)
        assert points(bus, "train") == {s: {"loss": (s - 1) % 5} for s in (4, 5, 8, 10)}
        assert bus.counts().offered == 2


def test_a_resumed_run_without_iterations_has_no_point(bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus)
    trainer.load_state_dict({"iteration": 7, "max_epochs": 2, "epoch_length": 5})
    trainer.add_event_handler(Events.STARTED, trainer.terminate)
    trainer.run(range(5))
    assert bus.counts().offered == 0


def test_the_training_thread_reads_nothing_from_a_device() -> None:
    recording = RecordingBus(3)
    model, x = torch.nn.Linear(2, 1), torch.ones(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.01))
    seen: list[torch.Tensor] = []

    def step(_: Engine, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (model(batch) - 1).square().mean()
        loss.backward()
        seen.append(loss.detach().clone())
        return {"loss": loss}

    trainer, validator = Engine(step), Engine(lambda *_: None)
    attach(trainer, recording, validator=validator, window=True, optimizer=optimizer)  # type: ignore[arg-type]
    validator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(error=torch.tensor(0.5))
    )
    trainer.add_event_handler(Events.COMPLETED, lambda: validator.run([0]))
    with no_host_reads():
        trainer.run([x] * 4)
    losses = [loss.item() for loss in seen]
    (three, first), (four, last), (_, val) = recording.written()
    assert (three, four) == (3, 4)
    assert first["train"] == pytest.approx({"loss": losses[2], "lr": 0.01})
    assert first["train_window"] == pytest.approx({"loss": sum(losses[:3]) / 3})
    assert last["train"]["loss"] == last["train_window"]["loss"] == losses[3]
    assert val == {"val": {"error": 0.5}}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_training_thread_does_not_wait_for_the_gpu() -> None:
    recording, x = RecordingBus(2), torch.ones((), device="cuda")
    trainer = engine(lambda number: x * number)
    attach(trainer, recording, window=True)  # type: ignore[arg-type]
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.run(range(1, 6))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert recording.written() == [
        (2, {"train": {"loss": 2.0}, "train_window": {"loss": 1.5}}),
        (4, {"train": {"loss": 4.0}, "train_window": {"loss": 3.5}}),
        (5, {"train": {"loss": 5.0}, "train_window": {"loss": 5.0}}),
    ]


def test_no_autograd_graph_is_kept_alive() -> None:
    recording, weight = RecordingBus(2), torch.ones(3, requires_grad=True)
    graphs = []

    def step(_: int) -> torch.Tensor:
        made = weight * 2
        graphs.append(weakref.ref(made))
        return made.sum()

    trainer = engine(step)
    attach(trainer, recording, window=True)  # type: ignore[arg-type]
    trainer.run(range(5))
    trainer.state.output = None
    gc.collect()
    assert [graph() for graph in graphs] == [None] * 5
    assert len(recording.waiting) == 3


def test_later_changes_of_a_published_tensor_have_no_effect() -> None:
    recording, loss = RecordingBus(1), torch.zeros(())
    trainer = engine(lambda _: loss.add_(1))
    attach(trainer, recording, window=True)  # type: ignore[arg-type]
    trainer.run(range(3))
    assert [values["train"]["loss"] for _, values in recording.written()] == [1.0, 2.0, 3.0]
    assert [values["train_window"]["loss"] for _, values in recording.written()] == [1.0, 2.0, 3.0]


def test_tensors_are_converted_to_floats_outside_the_training_thread(run: Path) -> None:
    threads = []

    class Loss(torch.Tensor):
        def __float__(self) -> float:
            threads.append(threading.current_thread())
            return 1.0

    trainer = engine(lambda _: torch.zeros(()).as_subclass(Loss))
    with open_bus(run) as bus:
        attach(trainer, bus)
        trainer.run(range(4))
        assert points(bus, "train") == {4: {"loss": 1.0}}
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("window", [False, True])
def test_an_error_in_values_loses_the_point_but_does_not_stop_training(
    run: Path, caplog: pytest.LogCaptureFixture, window: bool
) -> None:
    def values(engine: Engine) -> dict[str, float]:
        if engine.state.iteration in {3, 4}:
            raise KeyError("no-such-head")
        return {"loss": engine.state.output}

    trainer = engine()
    with open_bus(run) as bus, caplog.at_level(logging.WARNING):
        attach(trainer, bus, values=values, window=window)
        state = trainer.run(range(8))
        assert state.iteration == 8
        assert points(bus, "train") == {8: {"loss": 7.0}}
        assert bus.counts().lost == 1 + window
    assert "at iteration 4: KeyError: 'no-such-head'" in caplog.text


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda x: (x, x), "the engine's output has type tuple, but must be a number or a mapping of names to numbers"),
        (lambda _: None, "the engine's output has type NoneType"),
        (lambda _: {"y": torch.zeros(3)}, "'y' is a tensor with 3 elements, but a metric is a single number"),
        (lambda _: {"y": "high"}, "'y' is of type str, but a metric is a single number"),
    ],
)
def test_the_error_for_an_output_that_is_not_a_number_explains_the_fix(
    run: Path, caplog: pytest.LogCaptureFixture, step: Callable[[int], Any], message: str
) -> None:
    trainer = engine(step)
    with open_bus(run) as bus:
        attach(trainer, bus)
        trainer.run(range(4))
    assert message in caplog.text
    assert "attach(values=…)" in caplog.text


def test_values_is_called_at_the_same_iterations_on_all_ranks(bus: MetricBus) -> None:
    asked: dict[str, list[int]] = {"first": [], "second": []}

    def train(rank: str, bus: MetricBus | NullBus) -> None:
        def values(engine: Engine) -> dict[str, float]:
            asked[rank].append(engine.state.iteration)
            return output(engine)  # type: ignore[return-value]

        trainer = engine()
        attach(trainer, bus, values=values, window=True)
        trainer.run(range(5), max_epochs=2)

    train("first", bus)
    train("second", NullBus(EVERY))
    assert asked["first"] == asked["second"]
    assert asked["first"] == list(range(1, 11))


def test_a_detached_trainer_publishes_nothing_more(bus: MetricBus) -> None:
    trainer, validator = engine(), engine()
    attached = attach(trainer, bus, validator=validator)
    Average().attach(trainer, "mean")
    Average().attach(validator, "mean")
    trainer.run(range(4), max_epochs=1)
    attached.detach()
    trainer.run(range(4), max_epochs=2)
    validator.run(range(4))
    assert bus.counts().offered == 2
    attach(trainer, bus)
    trainer.run(range(4), max_epochs=3)
    assert list(points(bus, "train")) == [4, 12]


def test_attaching_twice_to_the_same_bus_is_an_error(run: Path, bus: MetricBus) -> None:
    trainer = engine()
    attach(trainer, bus)
    with pytest.raises(ValueError, match=r"already attached to this bus; call detach\(\)"):
        attach(trainer, bus)
    attach(engine(), bus)
    with open_bus(run.parent / "another") as another:
        attach(trainer, another)


def test_arguments_that_are_not_engines_or_a_bus_are_errors(bus: MetricBus) -> None:
    with pytest.raises(TypeError, match="requires ignite engines, not Linear"):
        attach(torch.nn.Linear(1, 1), bus)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="requires ignite engines, not function"):
        attach(engine(), bus, validator=engine)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"requires the bus returned by open_run\(…\), not Engine"):
        attach(engine(), engine())  # type: ignore[arg-type]


def test_a_terminated_validation_has_no_point(bus: MetricBus) -> None:
    trainer, validator = engine(), engine()
    Average().attach(validator, "mean")

    @validator.on(Events.ITERATION_COMPLETED)
    def _stop(engine: Engine) -> None:
        if trainer.state.epoch == 2 and engine.state.iteration == 2:
            engine.terminate()

    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: validator.run([trainer.state.epoch] * 3))
    attach(trainer, bus, validator=validator)
    trainer.run([1.0] * 3, max_epochs=3)
    assert points(bus, "val") == {3: {"mean": 1.0}, 9: {"mean": 3.0}}


@pytest.mark.parametrize(
    "value",
    [torch.ones(1).to_sparse(), torch.tensor(1j), 10**400, "text", None],
    ids=["sparse", "complex", "huge", "text", "none"],
)
def test_an_unusual_value_among_the_metrics_does_not_affect_the_others(bus: MetricBus, value: Any) -> None:
    trainer = engine()

    @trainer.on(Events.EPOCH_COMPLETED)
    def _compute(engine: Engine) -> None:
        engine.state.metrics = {"count": 3, "one": value}

    attach(trainer, bus)
    trainer.run([1.0] * 3)
    assert points(bus, "train_epoch") == {3: {"count": 3.0}}
