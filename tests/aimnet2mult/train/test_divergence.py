"""A run that diverges: the files it keeps, its messages, and how to restart it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aimnet2mult.train import engine
from aimnet2mult.train.engine import Batch
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.file_contents import read_content
from support.tiny_runs import newest_checkpoint, points, train_tiny
from telemetry import read_receipt

EVERY = "telemetry.every=1"
EPOCH = 3
LONG = "trainer.epochs=40"
STOP = "telemetry.on_divergence=stop"


@pytest.fixture
def batches_change(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Batch], Batch], int], None]:
    """Return a function that changes all batches of training and validation, from a given one on."""
    real = engine.to_device

    def arrange(change: Callable[[Batch], Batch], first: int) -> None:
        count = 0

        def to_device(batch: Batch, device: torch.device) -> Batch:
            nonlocal count
            count += 1
            batch = real(batch, device)
            return change(batch) if count >= first else batch

        monkeypatch.setattr(engine, "to_device", to_device)

    return arrange


def with_large_labels(batch: Batch) -> Batch:
    x, y = batch
    return x, {name: 1e3 * label for name, label in y.items()}


def without_predictions(batch: Batch) -> Batch:
    """Make all predictions NaN."""
    x, y = batch
    return {**x, "coord": torch.nan * x["coord"]}, y


Arrange = Callable[[Callable[[Batch], Batch], int], None]


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def the_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def good(run: Path) -> Path:
    return newest_checkpoint(run)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_diverged_loss_keeps_the_checkpoint_from_before_the_divergence(
    tmp_path: Path, batches_change: Arrange, capfd: pytest.CaptureFixture[str], keep: int
) -> None:
    batches_change(with_large_labels, 60)
    run = train_tiny(tmp_path, EVERY, LONG, STOP, f"checkpoint.keep={keep}")
    assert "diverged.pt" in kept(run)
    # A divergence takes five points; each epoch has three, and a checkpoint.
    assert any(name.startswith("diverged-step-") for name in kept(run))
    state = read_content(good(run))
    losses = points(run, "train_window")
    assert all(values["loss"] < 1e3 for step, values in losses.items() if step <= state["position"]["iteration"])
    (named,) = re.findall(r"aimnet2mult train … --load (\S+)", capfd.readouterr().err)
    assert Path(named) == good(run)


def test_repeated_divergence_after_resumes_keeps_the_same_checkpoint(tmp_path: Path, batches_change: Arrange) -> None:
    batches_change(without_predictions, 60)
    run = train_tiny(tmp_path, EVERY, LONG, STOP)
    before = good(run)
    for _ in range(2):
        batches_change(without_predictions, 1)
        assert train(Request(resume=str(run))) == 3
        assert good(run) == before


def test_with_warn_the_run_continues_and_keeps_its_weights(
    tmp_path: Path, batches_change: Arrange, capfd: pytest.CaptureFixture[str]
) -> None:
    batches_change(without_predictions, 60)
    train_tiny(tmp_path, EVERY, "trainer.epochs=20", "trainer.max_bad_steps=99")
    run = the_run(tmp_path)
    assert read_receipt(run).status == "finished"
    model = read_content(good(run))["parts"]["model"]
    assert all(array.isfinite().all() for array in model.values())
    # The healthy checkpoint, and the two newest.
    assert len(kept(run)) == 3
    assert "epoch 20/20, iteration 60; train 3 skipped steps; " in capfd.readouterr().err
