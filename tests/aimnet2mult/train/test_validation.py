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
from aimnet2mult.models.description import BestRecord
from aimnet2mult.models.weights import read_state
from aimnet2mult.train.console import Console
from aimnet2mult.train.evaluations import Evaluations
from aimnet2mult.train.reporter import Reporter
from aimnet2mult.train.validation import BestValidation
from aimnet2mult.train.validation_metrics import ValidationMetrics
from support.labels import built_in
from support.tiny_runs import build_tiny
from telemetry import NullBus

METRICS = ValidationMetrics(
    known=metric_info(built_in("energy", "charges"), ["gfn1"], VALIDATION),
    available=tuple(metric_info(built_in("energy"), ["gfn1"], VALIDATION)),
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


def test_the_best_loss_of_version_0_1_is_not_comparable_and_dropped() -> None:
    for metric, comparable in (("loss", False), ("E_rmse", True)):
        best = BestValidation(metric, METRICS)
        assert best.load_state_dict({"metric": metric, "value": 0.0}) == comparable
        assert best.update({metric: 1.0}) != comparable
    assert BestValidation("loss", METRICS).load_state_dict({"metric": "loss", "value": math.inf})


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
        self.reported: list[tuple[str, str, int]] = []

    def publish(self, stream: str, step: int, values: Any, *, final: bool = False) -> None:
        self.points.append((stream, step, values()))

    def alert(self, title: str, text: str = "", *, step: int, level: str = "warning") -> None:
        self.reported.append((title, text, step))


class Harness:
    """A validation of a tiny model in four batches."""

    def __init__(self, folder: Path, *overrides: str, communicator: Communicator | None = None) -> None:
        communicator = communicator or Communicator()
        settings = ("data.samplers.val.batch_size=1", *overrides)
        config, self.components = build_tiny(folder, *settings, communicator=communicator)
        self.bus, self.stop, self.output = RecordingBus(), StopSignal(), io.StringIO()
        self.best = folder / "checkpoints/best.pt"
        self.evaluated = 0
        reporter = Reporter(
            self.bus,
            train_sums=self.components.train_sums,
            labels=self.components.labels,
            fidelity_names=config.fidelity_names,
            optimizer=self.components.optimizer,
        )
        self.evaluations = Evaluations(
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

        def hook(*_: object) -> None:
            self.evaluated += 1
            if self.evaluated == number:
                self.stop.signal = 15

        self.components.model.register_forward_hook(hook)

    def shift_weights(self, offset: float) -> None:
        with torch.no_grad():
            for parameter in self.components.model.parameters():
                parameter.add_(offset)


def test_a_validation_publishes_its_metrics_at_the_iteration_with_the_epoch(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.evaluations.validate(4)
    ((stream, step, values),) = harness.bus.points
    assert (stream, step, values["epoch"]) == ("val", 4, 2)
    assert {"loss", "E_rmse", "E_mae", "E_r2", "q_rmse"} <= values.keys()
    assert not harness.evaluations.pending


def test_each_validation_starts_from_zero(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    for iteration in (3, 6):
        harness.evaluations.validate(iteration)
    first, second = (values for *_, values in harness.bus.points)
    assert first | {"epoch": 2} == second


@pytest.mark.parametrize("batch", [1, 3])
def test_an_interrupted_validation_publishes_nothing_and_is_pending(tmp_path: Path, batch: int) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    assert not harness.evaluations.pending
    harness.stop_in_batch(batch)
    harness.evaluations.validate(3)
    assert harness.evaluations.pending
    assert harness.evaluated == batch
    assert harness.evaluations.state_dict()["owes_validation"]
    assert (harness.bus.points, harness.best.exists()) == ([], False)


def test_a_stop_in_the_last_batch_completes_the_validation(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.stop_in_batch(4)
    harness.evaluations.validate(3)
    assert not harness.evaluations.pending
    assert len(harness.bus.points) == 1


def test_a_pending_validation_is_complete_once_repeated(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.evaluations.load_state_dict({"owes_validation": True})
    assert harness.evaluations.pending
    harness.evaluations.validate(3)
    assert not harness.evaluations.pending


def test_a_plateau_schedule_steps_with_the_published_metric(tmp_path: Path) -> None:
    plateau = "scheduler={class: torch.optim.lr_scheduler.ReduceLROnPlateau, kwargs: {patience: 0, factor: 0.5}}"
    harness = Harness(tmp_path, plateau)
    rates = []
    for iteration in (3, 6, 9):
        harness.evaluations.validate(iteration)
        rates.append(harness.components.optimizer.param_groups[0]["lr"])
    # The weights do not change, so every validation after the first is a plateau.
    assert rates == [0.1, 0.05, 0.025]


def test_the_best_weights_are_replaced_only_by_better_ones(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    harness.evaluations.validate(3)
    saved = harness.best.read_bytes()
    harness.shift_weights(100.0)
    harness.evaluations.validate(6)
    assert harness.best.read_bytes() == saved
    assert harness.evaluations.state_dict()["best"]["metric"] == "loss"


def test_the_best_weights_record_their_validation(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "checkpoint.best=E_r2")
    harness.evaluations.validate(3)
    ((*_, values),) = harness.bus.points
    assert read_state(harness.best).best == BestRecord(iteration=3, metric="E_r2", value=values["E_r2"])


def test_a_resume_replaces_the_best_weights_of_an_attempt_that_was_not_continued(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    harness.shift_weights(1.0)
    harness.evaluations.validate(3)
    checkpoint = harness.evaluations.state_dict()
    harness.shift_weights(-1.0)
    harness.evaluations.validate(9)
    # Worse than those of iteration 3, which iteration 9 has replaced.
    harness.shift_weights(100.0)
    harness.evaluations.load_state_dict(checkpoint)
    for iteration in (6, 9):
        harness.evaluations.validate(iteration)
        best = read_state(harness.best).best
        assert best is not None
        assert best.iteration == 6


def test_a_resume_keeps_the_best_weights_that_it_continues_from(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    harness.evaluations.validate(3)
    saved = harness.best.read_bytes()
    harness.evaluations.load_state_dict(harness.evaluations.state_dict())
    harness.shift_weights(100.0)
    harness.evaluations.validate(6)
    assert harness.best.read_bytes() == saved


def test_only_the_first_rank_saves_the_best_weights(tmp_path: Path) -> None:
    class Rank1(Communicator):
        rank, world_size = 1, 2

    harness = Harness(tmp_path, "checkpoint.best=loss", communicator=Rank1())
    harness.evaluations.validate(3)
    assert len(harness.bus.points) == 1
    assert not harness.best.exists()


FUNCTIONS = {"energy": "energy_loss_fn", "charges": "peratom_loss_fn"}


@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_loss_does_not_depend_on_the_batch_size(tmp_path: Path, size: int) -> None:
    components: dict[str, dict[str, Any]] = {
        name: {"fn": f"aimnet2mult.train.loss.{fn}", "weight": 1.0} for name, fn in FUNCTIONS.items()
    }
    components["charges"]["kwargs"] = {"key_true": "charges", "key_pred": "charges"}
    loss = f"loss={{class: aimnet2mult.train.loss.MTLoss, kwargs: {{components: {components}}}}}"
    harness = Harness(tmp_path, loss, f"data.samplers.val.batch_size={size}")
    (group,) = harness.components.data.val.groups
    # A single energy, in the last batch.
    group["energy"][:3] = math.nan
    outputs: list[dict[str, Any]] = []
    harness.components.model.register_forward_hook(lambda _, __, out: outputs.append(out))
    harness.evaluations.validate(3)
    pred = {name: torch.cat([out[name].detach() for out in outputs]).double().numpy() for name in FUNCTIONS}
    energy = (pred["energy"][3] - group["energy"][3]) ** 2 / math.sqrt(3)
    charges = ((pred["charges"] - group["charges"]) ** 2).mean()
    ((*_, values),) = harness.bus.points
    found = {name: values[name] for name in ("loss", "loss_energy", "loss_charges")}
    expected = {"loss": (energy + charges) / 2, "loss_energy": energy, "loss_charges": charges}
    assert found == pytest.approx(expected, rel=1e-6)


def spoil(harness: Harness, *rows: int) -> None:
    """Make the energies of these validation structures, numbered in the order of validation, infinite."""
    calls = iter(range(1000))

    def hook(_: object, __: object, out: dict[str, torch.Tensor]) -> None:
        if next(calls) % 4 in rows:
            out["energy"][:] = math.inf

    harness.components.model.register_forward_hook(hook)


def places(harness: Harness, *rows: int) -> list[str]:
    (group,) = harness.components.data.val.groups
    return harness.components.data.locate(group["origin"][list(rows)])


def test_structures_without_finite_predictions_are_left_out_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    spoil(harness, 1, 3)
    for iteration in (3, 6):
        harness.evaluations.validate(iteration)
    for *_, values in harness.bus.points:
        assert values["skipped_structures"] == 2
        assert all(math.isfinite(value) for value in values.values())
    title = "validation left out structures whose predictions are not finite: 2"
    assert harness.bus.reported == [(title, "; ".join(places(harness, 1, 3)), 3)]
    assert caplog.messages == [f"iteration 3: {title}: {'; '.join(places(harness, 1, 3))}"]
    assert "a.h5, group 003, row " in harness.bus.reported[0][1]
    assert harness.best.exists()


def test_a_structure_that_is_skipped_later_is_named_then(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    spoil(harness, 1)
    harness.evaluations.validate(3)
    spoil(harness, 2)
    harness.evaluations.validate(6)
    assert [(text, step) for _, text, step in harness.bus.reported] == [
        (*places(harness, 1), 3),
        (*places(harness, 2), 6),
    ]


def test_weights_that_are_not_finite_never_look_good(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    harness.shift_weights(math.nan)
    harness.evaluations.validate(3)
    ((*_, values),) = harness.bus.points
    assert values.pop("skipped_structures") == 4
    assert values.pop("epoch") == 1
    assert {"loss", "E_rmse", "E_mae", "E_r2", "E_atom_rmse", "q_rmse"} <= values.keys()
    assert all(math.isnan(value) for value in values.values())
    assert not harness.best.exists()


def test_without_labels_there_is_no_validation_loss(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    for group in harness.components.data.val.groups:
        group["energy"][:] = math.nan
        group["charges"][:] = math.nan
    harness.evaluations.validate(3)
    ((*_, values),) = harness.bus.points
    assert values == {"skipped_structures": 0, "epoch": 1}


def test_a_best_loss_of_version_0_1_is_mentioned_on_resume(tmp_path: Path) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    harness.evaluations.load_state_dict({"owes_validation": False, "best": {"metric": "loss", "value": 0.0}})
    assert "the search for the best weights starts again" in harness.output.getvalue()
    harness.evaluations.validate(3)
    assert harness.best.exists()


class TwoRanks(Communicator):
    """One of two ranks that runs after the other; sums are those of all so far."""

    world_size = 2

    def __init__(self, rank: int, reduced: list[torch.Tensor]) -> None:
        self.rank = rank
        self._reduced = reduced

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        if self.rank:
            self._reduced.append(tensor.clone())
        else:
            tensor.add_(self._reduced.pop(0))


def test_the_first_rank_names_the_structures_of_all_ranks(tmp_path: Path) -> None:
    reduced: list[torch.Tensor] = []
    for rank in (1, 0):
        harness = Harness(tmp_path, "data.samplers.val.batch_size=3", communicator=TwoRanks(rank, reduced))
        skip_charges_of_odd_rows(harness)
        harness.evaluations.validate(3)
    ((*_, values),) = harness.bus.points
    assert values["skipped_structures"] == 2
    ((_, text, _),) = harness.bus.reported
    assert text == "; ".join(places(harness, 1, 3))


def test_a_rank_without_structures_of_a_batch_flags_none(tmp_path: Path) -> None:
    reduced: list[torch.Tensor] = []
    for rank in (1, 0):
        # Batches of one structure leave none for the second rank.
        harness = Harness(tmp_path, communicator=TwoRanks(rank, reduced))
        skip_charges_of_odd_rows(harness)
        harness.evaluations.validate(3)
    assert [text for _, text, _ in harness.bus.reported] == ["; ".join(places(harness, 1, 3))]


def skip_charges_of_odd_rows(harness: Harness) -> None:
    (group,) = harness.components.data.val.groups
    bad = torch.from_numpy(group["coord"][1::2, 0, 0])

    def hook(_: object, args: tuple[dict[str, torch.Tensor]], out: dict[str, torch.Tensor]) -> None:
        out["charges"][torch.isin(args[0]["coord"][:, 0, 0], bad)] = math.nan

    harness.components.model.register_forward_hook(hook)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr("os.fsync", fail)


def test_failing_to_save_the_best_weights_is_only_reported(tmp_path: Path, full_disk: Callable[[], None]) -> None:
    harness = Harness(tmp_path, "checkpoint.best=loss")
    full_disk()
    harness.evaluations.validate(3)
    assert harness.output.getvalue() == (
        "warning: cannot save the weights of the best validation: [Errno 28] No space left on device;"
        " training continues\n"
    )
