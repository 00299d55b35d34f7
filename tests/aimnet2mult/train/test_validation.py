"""A validation publishes its metrics, steps the schedule, saves the best weights, and can be interrupted."""

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
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.statistics import VALIDATION, metric_info
from aimnet2mult.train.console import Console
from aimnet2mult.train.reporter import Reporter
from aimnet2mult.train.validation import BestValidation, Validation
from aimnet2mult.train.validation_metrics import ValidationMetrics
from support.tiny_runs import build_tiny
from telemetry import NullBus

METRICS = ValidationMetrics(
    known=metric_info(["energy", "charges"], ["gfn1"], VALIDATION),
    available=tuple(metric_info(["energy"], ["gfn1"], VALIDATION)),
)

# ---- the best validation


@pytest.mark.parametrize("name", ["E_rmse", "val_E_rmse", "val/E_rmse"])
def test_the_best_validation_has_the_lowest_value_so_far(name: str) -> None:
    best = BestValidation(name, METRICS)
    values = {3.0: True, 3.5: False, 2.0: True, math.nan: False, 2.5: False, 1.0: True}
    assert {value: best.update({"E_rmse": value, "loss": 0.0}) for value in values} == values
    assert not best.update({"E_rmse": 1.0, "loss": 0.0})


def test_the_best_r2_is_the_highest() -> None:
    best = BestValidation("E_r2", METRICS)
    assert [best.update({"E_r2": value}) for value in (-2.0, 0.5, 0.4, 0.6)] == [True, True, False, True]


def test_a_validation_without_the_metric_is_not_the_best() -> None:
    assert not BestValidation("E_rmse", METRICS).update({"loss": 1.0})
    assert not BestValidation(None, METRICS).update({"loss": 1.0})


def test_the_best_value_survives_a_resume_unless_the_metric_changes() -> None:
    before = BestValidation("loss", METRICS)
    assert before.update({"loss": 1.0})
    for name, expected in (("loss", False), ("E_rmse", True)):
        after = BestValidation(name, METRICS)
        after.load_state_dict(before.state_dict())
        assert after.update({"loss": 2.0, "E_rmse": 2.0}) == expected
    after = BestValidation("loss", METRICS)
    after.load_state_dict({})
    assert after.update({"loss": 2.0})


def test_an_unknown_metric_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.best is 'F_rmse'; expected one of loss, E_rmse, E_mae, E_r2"):
        BestValidation("F_rmse", METRICS)


def test_a_metric_without_labels_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.best is 'q_rmse', but the validation data have no labels"):
        BestValidation("q_rmse", METRICS)


# ---- a validation of a tiny model


class RecordingBus(NullBus):
    """A bus that computes values when they are published, and records them."""

    def __init__(self) -> None:
        super().__init__(1)
        self.points: list[tuple[str, int, dict[str, float]]] = []

    def publish(self, stream: str, step: int, values: Any, *, final: bool = False) -> None:
        self.points.append((stream, step, values()))


class Harness:
    """A validation of a tiny model in four batches."""

    def __init__(self, folder: Path, *overrides: str, communicator: Communicator | None = None) -> None:
        communicator = communicator or Communicator()
        config, self.components = build_tiny(folder, "data.samplers.val.batch_size=1", *overrides)
        self.bus, self.stop, self.output = RecordingBus(), StopSignal(), io.StringIO()
        self.best = folder / "checkpoints/best.pt"
        reporter = Reporter(
            self.bus,
            train_sums=self.components.train_sums,
            val_sums=self.components.val_sums,
            labels=self.components.labels,
            fidelity_names=config.fidelity_names,
            optimizer=self.components.optimizer,
        )
        self.validation = Validation(
            folder,
            self.components,
            config,
            reporter=reporter,
            consensus=StopConsensus(self.stop, communicator),
            communicator=communicator,
            console=Console({}, epochs=1, stream=self.output),
        )

    def stop_in_batch(self, number: int) -> None:
        """Request a stop during a batch, counted from 1."""
        calls = iter(range(1, 100))

        def hook(*_: object) -> None:
            if next(calls) == number:
                self.stop.signal = 15

        self.components.model.register_forward_hook(hook)

    def shift_weights(self, offset: float) -> None:
        with torch.no_grad():
            for parameter in self.components.model.parameters():
                parameter.add_(offset)


def test_a_validation_publishes_its_metrics_at_the_iteration_with_the_epoch(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.validation.run(4)
    ((stream, step, values),) = harness.bus.points
    assert (stream, step, values["epoch"]) == ("val", 4, 2)
    assert {"loss", "E_rmse", "E_mae", "E_r2", "q_rmse"} <= values.keys()
    assert not harness.validation.pending


def test_each_validation_starts_from_zero(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    for iteration in (3, 6):
        harness.validation.run(iteration)
    first, second = (values for *_, values in harness.bus.points)
    assert first | {"epoch": 2} == second


@pytest.mark.parametrize("batch", [1, 3])
def test_an_interrupted_validation_publishes_nothing_and_is_pending(tmp_path: Path, batch: int) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    harness.stop_in_batch(batch)
    harness.validation.run(3)
    assert harness.validation.pending
    assert harness.validation.state_dict()["owes_validation"]
    assert (harness.bus.points, harness.best.exists()) == ([], False)


def test_a_stop_in_the_last_batch_completes_the_validation(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.stop_in_batch(4)
    harness.validation.run(3)
    assert not harness.validation.pending
    assert len(harness.bus.points) == 1


def test_a_pending_validation_is_complete_once_repeated(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.validation.load_state_dict({"owes_validation": True})
    assert harness.validation.pending
    harness.validation.run(3)
    assert not harness.validation.pending


def test_a_plateau_schedule_steps_with_the_published_metric(tmp_path: Path) -> None:
    plateau = "scheduler={class: torch.optim.lr_scheduler.ReduceLROnPlateau, kwargs: {patience: 0, factor: 0.5}}"
    harness = Harness(tmp_path, plateau)
    rates = []
    for iteration in (3, 6, 9):
        harness.validation.run(iteration)
        rates.append(harness.components.optimizer.param_groups[0]["lr"])
    # The weights do not change, so every validation after the first is a plateau.
    assert rates == [0.1, 0.05, 0.025]


def test_the_best_weights_are_replaced_only_by_better_ones(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    harness.validation.run(3)
    saved = harness.best.read_bytes()
    harness.shift_weights(100.0)
    harness.validation.run(6)
    assert harness.best.read_bytes() == saved
    assert harness.validation.state_dict()["best"]["metric"] == "loss"


def test_only_the_first_rank_saves_the_best_weights(tmp_path: Path) -> None:
    class Rank1(Communicator):
        rank, world_size = 1, 2

    harness = Harness(tmp_path, "checkpoint.best=loss", communicator=Rank1())
    harness.validation.run(3)
    assert len(harness.bus.points) == 1
    assert not harness.best.exists()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr("os.fsync", fail)


def test_failing_to_save_the_best_weights_is_only_reported(tmp_path: Path, full_disk: Callable[[], None]) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    full_disk()
    harness.validation.run(3)
    assert harness.output.getvalue() == (
        "warning: cannot save the weights of the best validation: [Errno 28] No space left on device;"
        " training continues\n"
    )
