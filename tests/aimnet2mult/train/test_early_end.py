"""Stopping below a learning rate, weights of the best validation, separate validation files and fidelity weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aimnet2mult.config.schema import load
from aimnet2mult.errors import ConfigError
from aimnet2mult.train.loaders import fidelity_weights
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support import tiny_model
from support.file_contents import read_content, read_weights
from support.tiny_runs import points, train_tiny, write_data
from telemetry import read_receipt

HALVED = "scheduler={class: torch.optim.lr_scheduler.ExponentialLR, kwargs: {gamma: 0.5}}"


def test_a_run_finishes_after_the_epoch_in_which_the_learning_rate_falls_below_the_limit(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, HALVED, "trainer.stop_below_lr=0.04")
    assert list(points(run)) == [3, 6]
    assert read_receipt(run).status == "finished"
    assert (run / "checkpoints" / "step-00000006.pt").is_file()


def test_a_run_that_finished_below_the_limit_does_not_continue(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path, HALVED, "trainer.stop_below_lr=0.04")
    assert train(Request(resume=str(run), overrides=["trainer.epochs=9"])) == 0
    assert list(points(run)) == [3, 6]
    assert "below trainer.stop_below_lr 0.04" in capfd.readouterr().err


def test_a_limit_that_is_never_reached_has_no_effect(tmp_path: Path) -> None:
    assert list(points(train_tiny(tmp_path, HALVED, "trainer.stop_below_lr=0.001"))) == [3, 6, 9, 12]


def test_a_run_stopped_within_an_epoch_is_preempted_even_below_the_limit(tmp_path: Path) -> None:
    tiny_model.Stopping.calls_left = 2
    run = train_tiny(tmp_path, f"{HALVED[:-1]}, step: iteration}}", "trainer.stop_below_lr=0.06")
    assert read_receipt(run).status == "preempted"


def weights(run: Path) -> Any:
    return read_weights(run / "checkpoints" / "best.pt")


def test_the_weights_of_the_best_validation_are_saved(tmp_path: Path) -> None:
    # With a learning rate of 0, weights and validations never change.
    still = train_tiny(tmp_path, "checkpoint.best=val/loss", "optimizer.kwargs.lr=0", "trainer.epochs=1")
    before = weights(still)
    run = train_tiny(tmp_path, "checkpoint.best=E_rmse", "checkpoint.keep=9")
    curve = {step: point["E_rmse"] for step, point in points(run).items()}
    best = min(curve, key=curve.__getitem__)
    kept = read_content(run / "checkpoints" / f"step-{best:08d}.pt")["parts"]["model"]
    assert weights(run).keys() == kept.keys() == before.keys()
    assert all(torch.equal(weights(run)[name], kept[name]) for name in kept)


def test_a_resumed_run_remembers_the_best_validation(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, "checkpoint.best=loss", "optimizer.kwargs.lr=0", "trainer.epochs=1")
    (run / "checkpoints" / "best.pt").unlink()
    assert train(Request(resume=str(run), overrides=["trainer.epochs=3"])) == 0
    assert len({point["loss"] for point in points(run).values()}) == 1
    assert not (run / "checkpoints" / "best.pt").exists()


def test_best_weights_are_saved_only_on_request(tmp_path: Path) -> None:
    assert not (train_tiny(tmp_path) / "checkpoints" / "best.pt").exists()


def test_a_metric_that_the_validation_does_not_have_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.best is 'F_rmse'; expected one of loss"):
        train_tiny(tmp_path, "checkpoint.best=F_rmse")


def test_with_separate_validation_files_all_other_structures_are_trained_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = write_data(tmp_path / "v.h5", 5, 1)
    run = train_tiny(tmp_path, f"data.val_fidelity_datasets.0={own}", "trainer.epochs=1")
    assert "16 training structures, 5 validation structures" in capfd.readouterr().err
    assert list(points(run)) == [4]


@pytest.mark.parametrize(
    ("weights_of", "given", "shares"),
    [
        ("fidelity", {0: 3.0}, {0: 3.0}),
        ("structure", {0: 3.0}, {0: 30.0, 1: 30.0}),
        ("structure", {0: 0.0, 1: 2.0}, {0: 0.0, 1: 60.0}),
        ("structure", {}, None),
        ("fidelity", {}, None),
    ],
)
def test_fidelity_weights_apply_to_the_fidelity_or_to_each_structure(
    tmp_path: Path, weights_of: str, given: dict[int, float], shares: dict[int, float] | None
) -> None:
    files = [f"data.fidelity_datasets.{i}={write_data(tmp_path / f'{i}.h5', 2, i)}" for i in (0, 1)]
    chosen = [f"data.fidelity_weights.{index}={weight}" for index, weight in given.items()]
    config = load([], [*files, *chosen, f"data.weights_of={weights_of}"])
    data: Any = SimpleNamespace(train_counts=(10, 30))
    assert fidelity_weights(config, data) == shares
