"""Which points are published when, with values that agree with NumPy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from aimnet2mult.metrics.declarations import declare
from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.statistics import POOLED
from aimnet2mult.train.engine import build_trainer, build_validator
from aimnet2mult.train.guarded_step import GuardedStep
from aimnet2mult.train.reporter import Reporter
from support.host_reads import no_host_reads
from support.labels import built_in
from support.tiny_model import SquaredLoss, TinyModel, batches

CPU = torch.device("cpu")
LABELS = ("energy", "forces", "charges")
NAMES = ("low", "high")
UNITS = {"energy": "eV/particle", "forces": "kcal/mol/Å", "charges": "e", "spin_charges": "e"}

Values = Mapping[str, float]


class RecordingBus:
    """A bus that accepts due points, and computes their values on request."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.waiting: list[tuple[tuple[str, ...], int, bool, Callable[[], Any]]] = []
        self.alerts: tuple[Any, ...] = ()
        self.diverged = None
        self.last_healthy_step = 0

    def due(self, stream: str, step: int) -> bool:
        return stream in {"train_epoch", "val"} or step % self.every == 0

    def publish(self, stream: str, step: int, values: Callable[[], Values], *, final: bool = False) -> None:
        self.publish_group((stream,), step, lambda: {stream: values()}, final=final)

    def publish_group(
        self, streams: Sequence[str], step: int, values: Callable[[], Any], *, final: bool = False
    ) -> None:
        assert final or all(self.due(stream, step) for stream in streams)
        self.waiting.append((tuple(streams), step, final, values))

    def written(self) -> dict[tuple[str, int], Values]:
        points = {}
        for streams, step, _, values in self.waiting:
            groups = values()
            assert set(groups) == set(streams)
            points |= {(stream, step): groups[stream] for stream in streams}
        return points


class Clock:
    """A clock that advances by half a second on each reading."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


def as_is(optimizer: torch.optim.Optimizer, _: torch.device) -> GuardedStep:
    """Return a step that ignores its flag, because reading it on the CPU is no concern of these tests."""
    return lambda _: optimizer.step()


class Run:
    """A small training with a reporter."""

    def __init__(self, every: int = 3) -> None:
        torch.manual_seed(0)
        self.model = TinyModel()
        self.bus, self.clock = RecordingBus(every), Clock()
        self.train_sums, self.val_sums = (
            ErrorSums(built_in(*LABELS), 2, CPU, POOLED.quantities),
            ErrorSums(built_in(*LABELS), 2),
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.reporter = Reporter(
            self.bus,
            train_sums=self.train_sums,
            labels=built_in(*LABELS),
            fidelity_names=NAMES,
            optimizer=self.optimizer,
            clock=self.clock,
        )
        self.trainer = build_trainer(
            self.model, self.optimizer, SquaredLoss(), self.train_sums, device=CPU, make_step=as_is
        )
        self.reporter.attach(self.trainer)
        # The predictions of each iteration, for an independent calculation.
        self.seen: list[dict[str, np.ndarray[Any, Any]]] = []
        self.hook = self.model.register_forward_hook(lambda _, args, out: self._keep(args, out))

    def _keep(self, args: tuple[Any, ...], out: dict[str, torch.Tensor]) -> None:
        self.seen.append({key: out[key].detach().double().numpy() for key in (*LABELS, "numbers", "fidelity")})

    def train(self, data: list[Any], epochs: int = 1) -> dict[tuple[str, int], Values]:
        self.trainer.run(data, max_epochs=epochs)
        return self.bus.written()


def steps(points: Mapping[tuple[str, int], Values], stream: str) -> list[int]:
    return [step for name, step in points if name == stream]


def test_points_are_published_at_due_iterations_the_last_one_and_ends_of_epochs() -> None:
    points = Run(every=3).train(batches(5), epochs=2)
    assert steps(points, "train") == steps(points, "train_window") == [3, 6, 9, 10]
    assert steps(points, "train_epoch") == [5, 10]
    assert [points["train_epoch", step]["epoch"] for step in (5, 10)] == [1, 2]
    assert [points["train", step]["epoch"] for step in (3, 6, 10)] == [1, 2, 2]


def test_a_last_iteration_that_is_due_has_a_single_point() -> None:
    run = Run(every=5)
    assert steps(run.train(batches(5), epochs=2), "train") == [5, 10]
    assert not any(final for _, _, final, _ in run.bus.waiting)


def test_train_and_train_window_are_published_together() -> None:
    run = Run(every=2)
    run.train(batches(4))
    assert [streams for streams, *_ in run.bus.waiting if "train" in streams] == [("train", "train_window")] * 2


def rmse(seen: list[dict[str, Any]], data: list[Any], label: str, fidelity: int | None = None) -> float:
    """Return the RMSE of a label over batches, computed with NumPy."""
    errors = []
    for outputs, (_, y) in zip(seen, data, strict=True):
        error = outputs[label] - y[label].double().numpy()
        chosen = np.ones(len(error), bool) if fidelity is None else outputs["fidelity"] == fidelity
        if label == "energy":
            errors.append(error[chosen].ravel())
        else:
            errors.append(error[chosen][outputs["numbers"][chosen] != 0].ravel())
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


def test_batch_window_and_epoch_metrics_agree_with_numpy() -> None:
    run, data = Run(every=3), batches(5)
    points = run.train(data, epochs=2)
    data = data * 2
    for abbr, label in (("E", "energy"), ("F", "forces"), ("q", "charges")):
        for stream, step, part in (
            ("train", 3, slice(2, 3)),
            ("train_window", 3, slice(3)),
            ("train_window", 6, slice(3, 6)),
            ("train_window", 10, slice(9, 10)),
            ("train_epoch", 5, slice(5)),
            ("train_epoch", 10, slice(5, 10)),
        ):
            expected = rmse(run.seen[part], data[part], label)
            assert points[stream, step][f"{abbr}_rmse"] == pytest.approx(expected, rel=1e-9)
        for index, name in enumerate(NAMES):
            expected = rmse(run.seen[3:6], data[3:6], label, index)
            assert points["train_window", 6][f"{name}/{abbr}_rmse"] == pytest.approx(expected, rel=1e-9)


def test_the_last_point_leaves_the_window_open_and_a_due_one_starts_a_new_one() -> None:
    run = Run(every=3)
    run.train(batches(5))
    # Two batches of three structures, which are counted in the last cell but one.
    assert run.train_sums.snapshot().wait()[Slot.WINDOW, -2] == 6
    run = Run(every=5)
    run.train(batches(5))
    assert not run.train_sums.snapshot().wait()[Slot.WINDOW].any()


def test_lr_speed_and_gradient_norm_belong_to_the_iteration_of_their_point() -> None:
    run = Run(every=2)

    @run.trainer.on(Events.ITERATION_COMPLETED)
    def _schedule(engine: Engine) -> None:
        run.optimizer.param_groups[0]["lr"] = 1.0 / engine.state.iteration

    points = run.train(batches(4))
    assert [points["train", step]["lr"] for step in (2, 4)] == [1.0, pytest.approx(1 / 3)]
    # The clock is read at the start and at each point: half a second for two iterations.
    assert [points["train", step]["it_per_s"] for step in (2, 4)] == [4.0, 4.0]
    assert all(points["train", step]["grad_norm"] > 0 for step in (2, 4))


def test_pauses_do_not_count_as_time_of_training() -> None:
    run = Run()

    @run.trainer.on(Events.ITERATION_COMPLETED)
    def _validate(_: Engine) -> None:
        with run.reporter.paused():
            run.clock.now += 1000.0

    points = run.train(batches(6))
    # Between two points are three pauses, each of which reads the clock once more before it ends.
    assert [points["train", step]["it_per_s"] for step in (3, 6)] == [3 / (0.5 + 2 * 0.5), 3 / (0.5 + 3 * 0.5)]


def test_a_training_that_ends_early_has_a_point_at_its_last_iteration() -> None:
    run = Run(every=4)

    @run.trainer.on(Events.EPOCH_COMPLETED)
    def _end(engine: Engine) -> None:
        run.optimizer.param_groups[0]["lr"] = 0.001
        run.reporter.publish_last(engine)
        run.reporter.publish_last(engine)
        engine.terminate()

    points = run.train(data := batches(6), epochs=5)
    assert steps(points, "train") == [4, 6]
    assert points["train", 6]["lr"] == 0.05
    assert points["train", 6]["E_rmse"] == pytest.approx(rmse(run.seen[5:], data[5:], "energy"))
    assert points["train_window", 6]["E_rmse"] == pytest.approx(rmse(run.seen[4:], data[4:], "energy"))


def test_publishing_reads_nothing_from_the_device_in_the_training_thread() -> None:
    run, data = Run(every=2), batches(4)
    run.hook.remove()
    with no_host_reads():
        run.trainer.run(data)
    assert len(run.bus.written()) == 5


def test_published_values_do_not_depend_on_when_they_are_computed() -> None:
    run, data = Run(every=2), batches(4)
    run.trainer.run(data)
    late = run.bus.written()
    run, data = Run(every=2), batches(4)
    early: dict[tuple[str, int], Values] = {}
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: early.update(run.bus.written()))
    run.trainer.run(data)
    for point, values in early.items():
        assert late[point] == values


def test_a_resumed_epoch_keeps_its_sums() -> None:
    data = batches(4)
    whole = Run(every=3)
    expected = whole.train(data)
    first = Run(every=3)
    first.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda engine: engine.terminate())
    first.trainer.run(data, max_epochs=1)
    second = Run(every=3)
    second.model.load_state_dict(first.model.state_dict())
    second.train_sums.load_state_dict(first.train_sums.state_dict())
    second.trainer.load_state_dict({"iteration": 2, "epoch_length": 4, "max_epochs": 1})
    second.trainer.run(data[2:])
    points = second.bus.written()
    for stream, step in expected:
        one, other = dict(points[stream, step]), dict(expected[stream, step])
        one.pop("it_per_s", None), other.pop("it_per_s", None)
        assert one == other


def test_validation_has_rmse_mae_and_r2_and_its_epoch() -> None:
    run, data = Run(), batches(3, seed=5)
    validator = build_validator(run.model, SquaredLoss(), run.val_sums, device=CPU)
    run.seen.clear()
    validator.run(data)
    run.reporter.publish_evaluation("val", run.val_sums, 7, epoch=2)
    values = run.bus.written()["val", 7]
    assert values["epoch"] == 2
    assert values["F_rmse"] == pytest.approx(rmse(run.seen, data, "forces"), rel=1e-9)
    true = np.concatenate([y["energy"].double().numpy() for _, y in data])
    pred = np.concatenate([seen["energy"] for seen in run.seen])
    assert values["E_mae"] == pytest.approx(np.abs(pred - true).mean(), rel=1e-9)
    r2 = 1 - ((pred - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    assert values["E_r2"] == pytest.approx(r2, rel=1e-9)
    assert "high/q_r2" in values


def test_the_latest_values_are_available_once_computed() -> None:
    run = Run(every=3)
    run.trainer.run(batches(5))
    assert not {name for name in run.reporter.values.latest if name.startswith("train_window/")}
    points = run.bus.written()
    assert run.reporter.values.latest["train_window/E_rmse"] == points["train_window", 5]["E_rmse"]
    assert run.reporter.values.latest["train_epoch/loss"] == points["train_epoch", 5]["loss"]


def test_values_that_a_new_point_lacks_are_no_longer_the_latest() -> None:
    run = Run(every=3)
    run.trainer.run(batches(3))
    build_validator(run.model, SquaredLoss(), run.val_sums, device=CPU).run(batches(2))
    run.reporter.publish_evaluation("val", run.val_sums, 3, epoch=1)
    run.bus.written()
    assert "val/E_rmse" in run.reporter.values.latest
    run.val_sums.reset(Slot.EPOCH)
    run.reporter.publish_evaluation("val", run.val_sums, 6, epoch=2)
    run.bus.written()
    assert {name for name in run.reporter.values.latest if name.startswith("val/")} == {
        "val/epoch",
        "val/skipped_structures",
    }
    assert "train_epoch/loss" in run.reporter.values.latest


def test_every_published_value_is_declared_with_its_unit() -> None:
    run = Run(every=2)
    points = run.train(batches(4))
    build_validator(run.model, SquaredLoss(), run.val_sums, device=CPU).run(batches(4))
    run.reporter.publish_evaluation("val", run.val_sums, 4, epoch=1)
    run.reporter.publish_evaluation("train_eval", run.val_sums, 4, epoch=1)
    run.reporter.publish_evaluation("test", run.val_sums, 4, epoch=1, weights_iteration=4.0)
    points = run.bus.written()
    declared = declare(built_in(*LABELS), NAMES, UNITS)
    published = {f"{stream}/{name}" for stream, step in points for name in points[stream, step]}
    assert published == set(declared)
    for name, info in declared.items():
        expected = {"E": "eV/particle", "F": "kcal/mol/Å", "q": "e", "it": "1/s"}.get(
            name.rpartition("/")[2].partition("_")[0], "1"
        )
        per_atom = "/atom" if "E_atom" in name else ""
        assert info.unit == ("1" if name.endswith("_r2") else expected + per_atom), name
        assert info.text


def test_only_losses_and_rmses_of_windows_epochs_and_validations_are_watched() -> None:
    watched = {name for name, info in declare(built_in(*LABELS), NAMES, UNITS).items() if info.watch}
    assert {name.partition("/")[0] for name in watched} == {"train_window", "train_epoch", "val"}
    assert {name.rpartition("/")[2].rpartition("_")[2] for name in watched} == {"loss", "rmse"}
    assert {"train_window/loss", "val/E_atom_rmse", f"val/{NAMES[0]}/F_rmse"} <= watched


def test_a_single_fidelity_has_no_separate_metrics() -> None:
    assert not [name for name in declare(built_in(*LABELS), ("fid0",), UNITS) if "fid0" in name]
