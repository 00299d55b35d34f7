"""When the loop validates, saves and stops; with fakes for validation and checkpoints."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.train.bad_steps import BadSteps
from aimnet2mult.train.console import Console
from aimnet2mult.train.loop import Training
from aimnet2mult.train.reporter import Reporter
from support.tiny_runs import build_tiny
from telemetry import NullBus

EPOCH = 3
"""Iterations per epoch of the tiny run."""
LAST = 4 * EPOCH


class FakeBus(NullBus):
    """A bus that notes the iterations of points, and calls a function when it is flushed."""

    def __init__(self) -> None:
        super().__init__(5)
        self.points: list[int] = []
        self.on_flush: Callable[[], None] = lambda: None

    def publish_group(self, streams: Any, step: int, values: Any, *, final: bool = False) -> None:
        self.points.append(step)

    def flush(self, timeout: float | None = None, *, media: bool = True) -> bool:
        self.on_flush()
        return True


class Harness:
    """A training of a tiny model, four epochs of three iterations, that records its validations and checkpoints."""

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        communicator: Communicator | None = None,
        is_time_up: Callable[[], bool] = lambda: False,
        checkpoint_interval: float = math.inf,
    ) -> None:
        communicator = communicator or Communicator()
        self.calls: list[tuple[str, int]] = []
        self.pending, self.problem, self.now = False, "", 0.0
        self.has_test, self.test_ends = False, True
        self.stop_reason = ""
        self.stop, self.diverged, self.output = StopSignal(), False, io.StringIO()
        self.on_call: Callable[[str, int], None] = lambda _name, _iteration: None
        config, components = build_tiny(folder, *overrides, communicator=communicator)
        self.bus, self.components = FakeBus(), components
        self.reporter = Reporter(
            self.bus,
            train_sums=components.train_sums,
            labels=components.labels,
            fidelity_names=config.fidelity_names,
            optimizer=components.optimizer,
        )
        fake: Any = self
        self.training = Training(
            config,
            components,
            reporter=self.reporter,
            evaluations=fake,
            checkpointing=fake,
            bad_steps=BadSteps(config.trainer, lambda _: ""),
            bus=self.bus,
            communicator=communicator,
            consensus=StopConsensus(
                self.stop,
                communicator,
                has_diverged=lambda: self.diverged,
                is_time_up=is_time_up,
                checkpoint_interval=checkpoint_interval,
                clock=lambda: self.now,
            ),
            console=Console({}, epochs=4, stream=self.output),
        )
        self.batches: list[float] = []
        """The sum of all coordinates of each batch, which identifies it."""
        components.model.register_forward_hook(lambda _, args, __: self.batches.append(float(args[0]["coord"].sum())))

    @property
    def iterations(self) -> int:
        return len(self.batches)

    def _record(self, name: str, iteration: int) -> None:
        self.calls.append((name, iteration))
        self.on_call(name, iteration)

    # Evaluations:
    def validate(self, iteration: int) -> None:
        self.pending = False
        self._record("validate", iteration)

    def repeat_pending(self, iteration: int) -> None:
        self.validate(iteration)

    def complete_epoch(self, epoch: int, iteration: int) -> None:
        """Do nothing: `Evaluations` decides whether an evaluation is due."""

    def test(self, iteration: int) -> bool:
        if self.has_test:
            self._record("test", iteration)
        return self.test_ends

    def is_tested(self, iteration: int) -> bool:
        return not self.has_test

    # Checkpoints:
    def load(self, path: Path) -> int:
        return int(path.name)

    def save(self, iteration: int) -> None:
        self._record("save", iteration)

    def save_diverged(self, iteration: int) -> None:
        self._record("save diverged", iteration)


def at(name: str, iteration: int, action: Callable[[], None]) -> Callable[[str, int], None]:
    return lambda *call: action() if call == (name, iteration) else None


def test_each_epoch_is_validated_and_then_saved(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    assert harness.training.run().kind == "finished"
    ends = range(EPOCH, LAST + 1, EPOCH)
    assert harness.calls == [*((name, end) for end in ends for name in ("validate", "save")), ("save", LAST)]
    assert harness.iterations == LAST


def test_a_run_that_was_trained_to_the_end_is_tested_before_its_last_checkpoint(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.has_test = True
    assert harness.training.run().kind == "finished"
    assert harness.calls[-3:] == [("save", LAST), ("test", LAST), ("save", LAST)]


def test_a_run_whose_test_is_interrupted_is_not_finished(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.has_test, harness.test_ends = True, False
    assert harness.training.run().kind == "preempted"


def test_a_run_that_stops_early_or_diverges_is_not_tested(tmp_path: Path) -> None:
    for kind in ("preempted", "diverged"):
        harness = Harness(tmp_path)
        harness.has_test = True

        def end(harness: Harness = harness, kind: str = kind) -> None:
            harness.stop.signal, harness.diverged = 15, kind == "diverged"

        harness.on_call = at("validate", 2 * EPOCH, end)
        assert harness.training.run().kind == kind
        assert ("test", 2 * EPOCH) not in harness.calls


def test_validations_can_follow_iterations_instead(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "log_frequency.val=5")
    harness.training.run()
    assert [iteration for name, iteration in harness.calls if name == "validate"] == [5, 10]


def test_checkpoints_can_also_follow_iterations(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "checkpoint.every_iterations=2")
    assert harness.training.run().kind == "finished"
    # That of iteration 6 is the one after the validation of its epoch.
    saved = [2, 3, 4, 6, 8, 9, 10, 12, 12]
    assert [iteration for name, iteration in harness.calls if name == "save"] == saved
    assert harness.calls.index(("validate", 6)) < harness.calls.index(("save", 6))


def test_checkpoints_can_also_follow_the_clock(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "trainer.epochs=1", "data.samplers.train.batches_per_epoch=10", checkpoint_interval=2.5)
    harness.components.model.register_forward_hook(lambda *_: setattr(harness, "now", harness.now + 1))
    harness.training.run()
    assert [iteration for name, iteration in harness.calls if name == "save"] == [3, 6, 9, 10, 10]


def test_a_time_limit_stops_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    harness = Harness(tmp_path, is_time_up=lambda: harness.iterations >= 5)
    assert harness.training.run().kind == "preempted"
    assert (harness.iterations, harness.calls[-1]) == (5, ("save", 5))
    assert (harness.stop.exit_code, harness.stop.name) == (143, "trainer.time_limit")


def test_a_stop_within_an_epoch_ends_it_there_with_a_checkpoint(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "log_frequency.val=5")
    harness.on_call = at("validate", 5, lambda: setattr(harness.stop, "signal", 15))
    assert harness.training.run().kind == "preempted"
    assert harness.calls[-2:] == [("validate", 5), ("save", 5)]
    assert harness.iterations == 5


def test_a_stop_at_the_end_of_an_epoch_still_validates_and_saves(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "log_frequency.val=3")
    harness.on_call = at("validate", 3, lambda: setattr(harness.stop, "signal", 15))
    assert harness.training.run().kind == "preempted"
    assert harness.calls == [("validate", 3), ("save", 3), ("save", 3)]


def test_a_resumed_run_trains_the_remaining_iterations(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.training.resume(Path("8"))
    assert harness.training.run().kind == "finished"
    assert harness.iterations == LAST - 8
    assert [iteration for name, iteration in harness.calls if name == "validate"] == [9, 12]


def test_a_resumed_run_sees_the_batches_that_an_uninterrupted_run_sees(tmp_path: Path) -> None:
    whole, resumed = Harness(tmp_path), Harness(tmp_path)
    whole.training.run()
    resumed.training.resume(Path("8"))
    resumed.training.run()
    assert resumed.batches == whole.batches[8:]
    assert len(set(whole.batches)) == LAST


def test_ranks_draw_different_random_numbers_after_a_resume(tmp_path: Path) -> None:
    class Rank(Communicator):
        def __init__(self, rank: int) -> None:
            self.rank, self.world_size = rank, 3

    def draw(rank: int, position: int) -> float:
        harness = Harness(tmp_path, communicator=Rank(rank))
        torch.manual_seed(0)
        harness.training.resume(Path(str(position)))
        return torch.rand(1).item()

    drawn = [draw(0, 8), draw(1, 8), draw(2, 8), draw(1, 9)]
    assert len(set(drawn)) == len(drawn)
    assert draw(1, 8) == drawn[1]


@pytest.mark.parametrize("position", [8, LAST])
def test_a_pending_validation_comes_first(tmp_path: Path, position: int) -> None:
    harness = Harness(tmp_path)
    harness.training.resume(Path(str(position)))
    harness.pending = True
    assert harness.training.run().kind == "finished"
    assert harness.calls[0] == ("validate", position)


def test_a_run_whose_last_validation_is_interrupted_is_not_finished(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.on_call = at("validate", LAST, lambda: setattr(harness, "pending", True))
    assert harness.training.run().kind == "preempted"


def test_resuming_a_complete_run_only_reports_that_it_is_complete(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.training.resume(Path(str(LAST)))
    assert harness.training.run().kind == "finished"
    assert harness.iterations == 0
    assert "nothing left to train after epoch 4; increase trainer.epochs to continue" in harness.output.getvalue()


def test_a_diverged_run_saves_only_its_diverged_state(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.on_call = at("validate", 6, lambda: setattr(harness, "diverged", True))
    assert harness.training.run().kind == "diverged"
    # The checkpoint of the epoch precedes the decision to stop.
    assert harness.calls[-3:] == [("validate", 6), ("save", 6), ("save diverged", 6)]


def test_a_divergence_found_in_the_pending_validation_of_a_complete_run_counts(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.training.resume(Path(str(LAST)))
    harness.pending = True
    # Alerts exist once the bus has computed the values.
    harness.bus.on_flush = lambda: setattr(harness, "diverged", True)
    assert harness.training.run().kind == "diverged"


@pytest.mark.parametrize(("weight", "kind"), [(1.0, "not saved"), (math.nan, "not finite")])
def test_a_run_whose_last_checkpoint_is_missing_is_not_finished(tmp_path: Path, weight: float, kind: str) -> None:
    harness = Harness(tmp_path)

    def fail() -> None:
        harness.problem = "the disk is full"
        with torch.no_grad():
            next(harness.components.model.parameters()).fill_(weight)

    harness.on_call = at("save", LAST, fail)
    outcome = harness.training.run()
    assert (outcome.kind, outcome.reason) == (kind, f"no checkpoint at iteration {LAST}: the disk is full")


def test_the_line_of_an_epoch_shows_only_validations_after_it(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "log_frequency.val=2", "trainer.epochs=2")
    latest = {"train_epoch/loss": 1.0, "val/loss": 2.0}
    harness.on_call = lambda *_: setattr(harness.reporter.values, "latest", latest)
    harness.training.run()
    first, second = (line for line in harness.output.getvalue().splitlines() if line.startswith("epoch"))
    assert ("; train " in first, "; val " in first) == (True, False)
    assert ("; train " in second, "; val " in second) == (True, True)


def test_a_stop_before_the_first_iteration_trains_nothing(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.stop.signal = 15
    assert harness.training.run().kind == "preempted"
    assert (harness.iterations, harness.calls) == (0, [("save", 0)])


def test_a_learning_rate_below_the_limit_finishes_the_run_after_the_epoch(tmp_path: Path) -> None:
    halved = "scheduler={class: torch.optim.lr_scheduler.ExponentialLR, kwargs: {gamma: 0.5}}"
    harness = Harness(tmp_path, halved, "trainer.stop_below_lr=0.04")
    assert harness.training.run().kind == "finished"
    assert harness.iterations == 2 * EPOCH
    assert harness.bus.points == [5, 6]
    assert "learning rate 0.025 is below trainer.stop_below_lr 0.04: finished" in harness.output.getvalue()


@pytest.mark.parametrize(("position", "iterations"), [(0, EPOCH), (8, 1), (9, 0)])
def test_a_low_learning_rate_ends_the_run_only_at_the_end_of_an_epoch(
    tmp_path: Path, position: int, iterations: int
) -> None:
    harness = Harness(tmp_path, "trainer.stop_below_lr=0.2")
    if position:
        harness.training.resume(Path(str(position)))
    assert harness.training.run().kind == "finished"
    assert harness.iterations == iterations


def test_an_ordinary_end_is_not_attributed_to_the_learning_rate(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "trainer.stop_below_lr=0.2", "trainer.epochs=1")
    assert harness.training.run().kind == "finished"
    assert "learning rate" not in harness.output.getvalue()


def test_the_lowest_learning_rate_of_all_groups_counts(tmp_path: Path) -> None:
    group = "optimizer.param_groups.embedding={re: embedding, lr: 0.01}"
    harness = Harness(tmp_path, group, "trainer.stop_below_lr=0.05")
    assert harness.training.run().kind == "finished"
    assert harness.iterations == EPOCH


def test_a_metric_that_no_longer_improves_finishes_the_run_after_the_validation(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "log_frequency.val=2")
    harness.on_call = at("validate", 4, lambda: setattr(harness, "stop_reason", "val/loss has not improved"))
    assert harness.training.run().kind == "finished"
    assert harness.calls == [("validate", 2), ("save", 3), ("validate", 4), ("save", 4)]
    assert "val/loss has not improved: finished" in harness.output.getvalue()
