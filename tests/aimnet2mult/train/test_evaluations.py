"""The test at the end of a run, evaluations of the training data, and training without validation data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aimnet2mult.data.dataset import DataSet
from aimnet2mult.errors import ConfigError, DataError
from aimnet2mult.train.checkpointing import Checkpointing
from aimnet2mult.train.evaluation_pass import EvaluationPass
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support import tiny_model
from support.file_contents import read_content
from support.tiny_model import TinyCore
from support.tiny_runs import build_tiny, newest_checkpoint, points, train_tiny, write_data
from telemetry import read_header, read_receipt

TEST = "data.test_fraction=0.25"
"""Four of 16 structures; eight remain for training, in two batches per epoch."""
LAST = 8
KCAL_PER_MOL = 23.060547830619


@pytest.fixture(autouse=True)
def _no_stop() -> Iterator[None]:
    yield
    tiny_model.Stopping.calls_left = None


def resume(run: Path, *overrides: str) -> int:
    return train(Request(resume=str(run), overrides=overrides))


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_content(newest_checkpoint(run))["parts"]["model"]
    return state


def errors(dataset: DataSet, state: dict[str, Any]) -> dict[str, float]:
    """Compute metrics of a tiny model in NumPy, in float64."""
    model = TinyCore().double().eval()
    model.load_state_dict(state)
    (group,) = dataset.groups
    batch = {"coord": torch.from_numpy(group["coord"]).double(), "numbers": torch.from_numpy(group["numbers"])}
    with torch.no_grad():
        predicted = {key: value.numpy() for key, value in model(batch).items()}
    energy, charges = (predicted[key] - group[key] for key in ("energy", "charges"))
    true = group["energy"].astype(np.float64)
    return {
        "E_rmse": float(np.sqrt(np.mean(energy**2))) * KCAL_PER_MOL,
        "E_mae": float(np.mean(np.abs(energy))) * KCAL_PER_MOL,
        "E_r2": float(1 - np.sum(energy**2) / np.sum((true - true.mean()) ** 2)),
        "q_rmse": float(np.sqrt(np.mean(charges**2))),
    }


# ---- the test


def test_the_test_has_the_errors_of_the_best_weights_on_the_test_structures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path, TEST, "checkpoint.best=loss", "checkpoint.keep=9")
    losses = {step: point["loss"] for step, point in points(run).items()}
    best = min(losses, key=losses.__getitem__)
    assert best != LAST
    ((step, values),) = points(run, "test").items()
    state = read_content(run / f"checkpoints/step-{best:08d}.pt")["parts"]["model"]
    expected = errors(build_tiny(tmp_path, TEST)[1].data.test, state)
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert (step, values["weights_iteration"], values["epoch"]) == (LAST, best, 4)
    shown = f"E {values['E_rmse']:.3g} kcal/mol, q {values['q_rmse']:.3g} e"
    out = capfd.readouterr().err
    assert f"test loss {values['loss']:.3g}, {shown}; weights: those of the best val/loss, of iteration {best}\n" in out
    assert "fid0: 8 training structures, 4 validation structures, 4 test structures; energy, charges\n" in out


def test_without_best_weights_the_final_ones_are_tested_and_unchanged_afterwards(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "with").mkdir()
    run = train_tiny(tmp_path / "with", TEST)
    ((_, values),) = points(run, "test").items()
    data = build_tiny(tmp_path / "with", TEST)[1].data
    expected = errors(data.test, weights(run))
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert values["weights_iteration"] == LAST
    assert "weights: the final ones\n" in capfd.readouterr().err


def test_best_weights_that_cannot_be_read_are_reported_and_the_final_ones_are_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = EvaluationPass.run

    def spoiling(self: EvaluationPass, iteration: int, **others: float) -> Any:
        done = real(self, iteration, **others)
        for best in tmp_path.glob("runs/*/checkpoints/best.pt"):
            best.write_bytes(b"PK")
        return done

    # The last validation does not replace best.pt, so that the test finds the damaged file.
    monkeypatch.setattr(EvaluationPass, "run", spoiling)
    run = train_tiny(tmp_path, TEST, "checkpoint.best=loss")
    out = capfd.readouterr().err
    assert f"warning: the test uses the final weights, because {run / 'checkpoints/best.pt'} cannot be read: " in out
    assert points(run, "test")[LAST]["weights_iteration"] == LAST


def test_a_file_of_test_structures_is_tested_and_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    runs = []
    for name, overrides in (("with", [f"data.test_fidelity_datasets.0={tmp_path / 'test.h5'}"]), ("without", [])):
        (tmp_path / name).mkdir()
        write_data(tmp_path / "test.h5", 5, 3)
        runs.append(train_tiny(tmp_path / name, *overrides))
    assert points(runs[0]) == points(runs[1])
    assert list(points(runs[0], "test")) == [12]
    assert not points(runs[1], "test")
    declared = [{name.partition("/")[0] for name in read_header(run).metrics} for run in runs]
    assert declared[0] - declared[1] == {"test"}
    metrics = read_header(runs[0]).metrics
    assert metrics["test/E_rmse"].unit == metrics["val/E_rmse"].unit == "kcal/mol"
    assert (metrics["test/E_r2"].better, metrics["test/E_rmse"].better) == ("higher", "lower")
    assert not any(metric.watch for name, metric in metrics.items() if name.startswith("test/"))


@pytest.mark.parametrize("moment", ["before the test", "during the test", "after the test"])
def test_a_run_killed_around_the_test_is_tested_once_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], moment: str
) -> None:
    evaluate, save = EvaluationPass.run, Checkpointing.save
    tested = []

    def testing(self: EvaluationPass, iteration: int, **others: float) -> Any:
        if self._stream != "test":
            return evaluate(self, iteration, **others)
        if moment == "before the test":
            raise RuntimeError("killed")
        if moment == "during the test":
            tiny_model.Stopping.calls_left = 1
        tested.append(iteration)
        return evaluate(self, iteration, **others)

    def saving(self: Checkpointing, iteration: int) -> None:
        if moment == "after the test" and tested:
            raise RuntimeError("killed")
        save(self, iteration)

    settings = (TEST, "checkpoint.best=loss", "data.samplers.val.batch_size=1")
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationPass, "run", testing)
        patch.setattr(Checkpointing, "save", saving)
        if moment == "during the test":
            run = train_tiny(tmp_path, *settings)
        else:
            with pytest.raises(RuntimeError, match="killed"):
                train_tiny(tmp_path, *settings)
            (run,) = (tmp_path / "runs").iterdir()
    tiny_model.Stopping.calls_left = None
    assert read_receipt(run).status == ("preempted" if moment == "during the test" else "failed")
    assert list(points(run, "test")) == ([LAST] if moment == "after the test" else [])
    before = weights(run)
    assert resume(run) == 0
    assert "nothing left to train after epoch 4, only the test\n" in capfd.readouterr().err
    assert read_receipt(run).status == "finished"
    assert list(points(run, "test")) == [LAST]
    assert all(torch.equal(before[name], value) for name, value in weights(run).items())
    # Once more: there is nothing left to do.
    assert resume(run) == 0
    assert len(list(run.glob("journal-*.jsonl"))) == 2


def test_a_finished_run_that_is_trained_further_is_tested_again_at_its_new_end(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, TEST)
    assert resume(run, "trainer.epochs=6") == 0
    assert list(points(run, "test")) == [LAST, 12]
    (tmp_path / "once").mkdir()
    once = train_tiny(tmp_path / "once", TEST, "trainer.epochs=6")
    assert points(once, "test")[12] == points(run, "test")[12]
    assert points(once, "val") == points(run, "val")


# ---- the training data with fixed weights


def test_evaluations_of_the_training_data_have_the_errors_of_the_weights_at_their_iteration(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, "trainer.evaluate_train_every=2", "data.samplers.val.batch_size=5")
    found = points(run, "train_eval")
    assert list(found) == [6, 12]
    expected = errors(build_tiny(tmp_path)[1].data.train, weights(run))
    assert {name: found[12][name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_evaluations_do_not_change_the_training(tmp_path: Path) -> None:
    runs = []
    for name, overrides in (("plain", []), ("evaluated", ["trainer.evaluate_train_every=1"])):
        (tmp_path / name).mkdir()
        runs.append(train_tiny(tmp_path / name, "data.loaders.train.num_workers=0", "telemetry.every=1", *overrides))
    for stream in ("train_window", "train_epoch", "val"):
        assert points(runs[0], stream) == points(runs[1], stream)
    contents = [read_content(newest_checkpoint(run)) for run in runs]
    for part in ("model", "optimizer", "sums"):
        assert str(contents[0]["parts"][part]) == str(contents[1]["parts"][part])
    assert torch.equal(contents[0]["random"]["torch"], contents[1]["random"]["torch"])


def test_an_interrupted_evaluation_of_the_training_data_is_repeated_after_the_resume(tmp_path: Path) -> None:
    settings = ("trainer.evaluate_train_every=2", "data.samplers.val.batch_size=1", "trainer.epochs=3")
    (tmp_path / "whole").mkdir()
    whole = train_tiny(tmp_path / "whole", *settings)
    # Two epochs of three training and four validation batches, then the third of twelve training structures.
    tiny_model.Stopping.calls_left = 2 * (3 + 4) + 3
    (tmp_path / "stopped").mkdir()
    run = train_tiny(tmp_path / "stopped", *settings)
    tiny_model.Stopping.calls_left = None
    assert (list(points(run)), points(run, "train_eval")) == ([3, 6], {})
    assert resume(run) == 0
    assert points(run, "train_eval") == points(whole, "train_eval")
    assert list(points(run, "train_eval")) == [6]
    assert points(run, "val") == points(whole, "val")
    assert points(run, "train_epoch") == points(whole, "train_epoch")


def test_evaluations_of_the_training_data_can_begin_with_a_resume(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, "trainer.epochs=2")
    assert resume(run, "trainer.epochs=4", "trainer.evaluate_train_every=1") == 0
    assert list(points(run, "train_eval")) == [9, 12]


# ---- without validation data


def test_a_run_without_validation_data_has_no_validation_stream(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path, "data.val_fraction=0", "telemetry.sinks=[tensorboard]")
    assert read_receipt(run).status == "finished"
    assert not any(name.startswith("val/") for name in read_header(run).metrics)
    assert (points(run), list(points(run, "train_epoch"))) == ({}, [4, 8, 12, 16])
    out = capfd.readouterr().err
    assert "fid0: 16 training structures; energy, charges\n" in out
    assert "val loss" not in out
    assert not (run / "tensorboard/val").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint.best=loss", "checkpoint.best is 'loss'"),
        ("trainer.early_stopping.metric=loss", "trainer.early_stopping.metric is 'loss'"),
        (
            "scheduler={class: torch.optim.lr_scheduler.ReduceLROnPlateau}",
            "scheduler.class is 'torch.optim.lr_scheduler.ReduceLROnPlateau'",
        ),
        ("scheduler={class: torch.optim.lr_scheduler.ConstantLR, step: val}", "scheduler.step is 'val'"),
    ],
)
def test_settings_that_need_a_validation_are_errors_without_one(tmp_path: Path, override: str, message: str) -> None:
    remedy = "but no structures are for validation; set data.val_fraction above 0, or data.val_fidelity_datasets"
    with pytest.raises(ConfigError, match=f"{message}, {remedy}"):
        train_tiny(tmp_path, "data.val_fraction=0", override)
    assert not list((tmp_path / "runs").glob("*"))


# ---- the split


def test_a_run_stores_its_split_and_another_run_can_use_it(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, TEST)
    other = train_tiny(tmp_path, f"data.split_file={run / 'split.npz'}", "data.val_fraction=0.5", "trainer.epochs=1")
    assert points(other)[2] == points(run)[2]
    assert list(points(other, "test")) == [2]
    # The other run has its own copy.
    (run / "split.npz").unlink()
    assert resume(other, "trainer.epochs=4") == 0
    assert points(other) == points(run)


def test_a_resume_uses_the_stored_split(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, TEST, "trainer.epochs=1")
    with np.load(run / "split.npz") as arrays:
        content = dict(arrays)
    np.savez(run / "split.npz", **{**content, "parts_0": content["parts_0"][::-1]})
    # Other training structures than those of the checkpoint.
    with pytest.raises(ValueError, match="was written with different data"):
        resume(run, "trainer.epochs=2")


def test_a_run_of_an_earlier_version_is_split_as_before(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = train_tiny(tmp_path / "whole")
    run = train_tiny(tmp_path, "trainer.epochs=2")
    (run / "split.npz").unlink()
    assert resume(run, "trainer.epochs=4") == 0
    assert points(run) == points(whole)
    assert (run / "split.npz").read_bytes()[:2] == b"PK"


def test_a_damaged_split_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, "trainer.epochs=1")
    (run / "split.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=rf"{run}/split\.npz is not the split of a run"):
        resume(run, "trainer.epochs=2")


def test_a_split_without_validation_structures_is_an_error_for_settings_that_need_them(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, "data.val_fraction=0", "trainer.epochs=1")
    with pytest.raises(ConfigError, match=r"checkpoint\.best is 'loss', but no structures are for validation"):
        train_tiny(tmp_path, f"data.split_file={run / 'split.npz'}", "checkpoint.best=loss")
