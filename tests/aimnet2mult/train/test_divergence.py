"""A run that diverges: the files it keeps, its messages, and how to restart it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aimnet2mult.train import engine
from aimnet2mult.train.engine import Batch
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import EXIT_NOT_SAVED, train
from support.tiny_runs import newest_checkpoint, points, train_tiny

EVERY = "telemetry.every=1"
EPOCH = 3
LONG = "trainer.epochs=40"
STOP = "telemetry.on_divergence=stop"


@pytest.fixture
def labels_times(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, int], None]:
    """Return a function that multiplies all labels by a factor, from a given batch of training or validation on."""
    real = engine.to_device

    def arrange(factor: float, first: int) -> None:
        count = 0

        def to_device(batch: Batch, device: torch.device) -> Batch:
            nonlocal count
            count += 1
            x, y = real(batch, device)
            return x, {name: factor * label for name, label in y.items()} if count >= first else y

        monkeypatch.setattr(engine, "to_device", to_device)

    return arrange


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def the_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def good(run: Path) -> Path:
    return newest_checkpoint(run)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_diverged_loss_keeps_the_checkpoint_from_before_the_divergence(
    tmp_path: Path, labels_times: Callable[[float, int], None], capfd: pytest.CaptureFixture[str], keep: int
) -> None:
    labels_times(1e3, 60)
    run = train_tiny(tmp_path, EVERY, LONG, STOP, f"checkpoint.keep={keep}")
    assert "diverged.pt" in kept(run)
    # A divergence takes five points; each epoch has three, and a checkpoint.
    assert any(name.startswith("diverged-step-") for name in kept(run))
    state = torch.load(good(run), weights_only=True)
    losses = points(run, "train_window")
    assert all(values["loss"] < 1e3 for step, values in losses.items() if step <= state["position"]["iteration"])
    (named,) = re.findall(r"aimnet2mult train … --load (\S+)", capfd.readouterr().err)
    assert Path(named) == good(run)


def test_repeated_divergence_after_resumes_keeps_the_same_checkpoint(
    tmp_path: Path, labels_times: Callable[[float, int], None]
) -> None:
    labels_times(1e300, 60)
    run = train_tiny(tmp_path, EVERY, LONG, STOP)
    before = good(run)
    for _ in range(2):
        labels_times(1e300, 1)
        assert train(Request(resume=str(run))) == 3
        assert good(run) == before


def test_with_warn_the_healthy_checkpoint_is_kept_and_non_finite_weights_are_never_written(
    tmp_path: Path, labels_times: Callable[[float, int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    labels_times(1e300, 60)
    train_tiny(tmp_path, EVERY, "trainer.epochs=20")
    run, weights = the_run(tmp_path), tmp_path / "weights.pt"
    model = torch.load(good(run), weights_only=True)["parts"]["model"]
    assert all(array.isfinite().all() for array in model.values())
    labels_times(1e300, 1)
    assert train(Request(resume=str(run), overrides=["trainer.epochs=21"], save=weights)) == EXIT_NOT_SAVED
    assert not weights.exists()
    assert f"--save {weights} is not written: the model's weights are not finite" in capfd.readouterr().err
