"""When the loop validates, saves and stops; with fakes for validation and checkpoints."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


class Harness:
    """A training of a tiny model, four epochs of three iterations, that records its validations and checkpoints."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.calls: list[tuple[str, int]] = []
        self.pending, self.problem = False, ""
        self.stop, self.diverged, self.output = StopSignal(), False, io.StringIO()
        self.on_call: Callable[[str, int], None] = lambda _name, _iteration: None
        config, components = build_tiny(folder, *overrides)
        bus = NullBus(1)
        reporter = Reporter(
            bus,
            train_sums=components.train_sums,
            val_sums=components.val_sums,
            labels=components.labels,
            fidelity_names=config.fidelity_names,
            optimizer=components.optimizer,
        )
        fake: Any = self
        self.training = Training(
            config,
            components,
            reporter=reporter,
            validation=fake,
            checkpointing=fake,
            bad_steps=BadSteps(config.trainer, lambda _: ""),
            bus=bus,
            communicator=Communicator(),
            consensus=StopConsensus(self.stop, Communicator(), has_diverged=lambda: self.diverged),
            console=Console({}, epochs=4, stream=self.output),
        )
        self.iterations = 0
        components.model.register_forward_hook(lambda *_: self._count())

    def _count(self) -> None:
        self.iterations += 1

    def _record(self, name: str, iteration: int) -> None:
        self.calls.append((name, iteration))
        self.on_call(name, iteration)

    # A validation:
    def run(self, iteration: int) -> None:
        self.pending = False
        self._record("validate", iteration)

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


def test_validations_can_follow_iterations_instead(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "log_frequency.val=5")
    harness.training.run()
    assert [iteration for name, iteration in harness.calls if name == "validate"] == [5, 10]


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
    assert "learning rate 0.025 is below trainer.stop_below_lr 0.04: finished" in harness.output.getvalue()
