"""The average of the weights equals its definition, is exact across a resume, and reads nothing from the device."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.models.weights import read_state
from aimnet2mult.quantities import LABELS
from aimnet2mult.train.averaged_weights import AveragedWeights
from aimnet2mult.train.engine import build_trainer
from aimnet2mult.train.guarded_step import MaskedStep, ReadStep
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.file_contents import read_content
from support.host_reads import no_host_reads
from support.tiny_model import SquaredLoss, TinyModel, batches
from support.tiny_runs import build_tiny, newest_checkpoint, points, train_tiny

DECAY = 0.8


def flat(model: nn.Module) -> Any:
    return np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])


@pytest.mark.parametrize("kind", [ReadStep, MaskedStep])
def test_the_average_is_the_weighted_mean_of_the_weights_after_each_applied_step(kind: Any) -> None:
    model = TinyModel()
    average = AveragedWeights(model, DECAY)
    data = batches(7)
    for bad in (0, 3, 4):
        data[bad][1]["energy"].fill_(torch.inf)
    weights: list[Any] = []
    trainer = build_trainer(
        model,
        torch.optim.Adam(model.parameters(), lr=0.01),
        SquaredLoss(),
        ErrorSums([LABELS[name] for name in ("energy", "forces", "charges")], 2),
        device=torch.device("cpu"),
        average=average,
        make_step=lambda optimizer, _: kind(optimizer),
    )
    start = flat(model)
    for number, batch in enumerate(data):
        before = flat(model)
        trainer.run([batch])
        if trainer.state.applied:
            weights.append(flat(model))
        else:
            np.testing.assert_array_equal(flat(model), before)
        with average.applied():
            powers = DECAY ** np.arange(len(weights))[::-1]
            expected = np.average(weights, axis=0, weights=powers) if weights else start
            np.testing.assert_allclose(flat(model), expected, rtol=1e-6, atol=1e-7)
        assert len(weights) == number + 1 - sum(bad <= number for bad in (0, 3, 4))


def test_updating_reads_nothing_from_the_device() -> None:
    model = TinyModel()
    average, applied = AveragedWeights(model, DECAY), torch.tensor(1) > 0
    with no_host_reads():
        average.update(applied)
        with average.applied():
            pass


def test_the_weights_return_with_their_bits_and_contexts_can_be_nested() -> None:
    model = TinyModel()
    average = AveragedWeights(model, DECAY)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    own, initial = copy.deepcopy(model.state_dict()), flat(model) - 1
    pointers = [p.data_ptr() for p in model.parameters()]
    with average.applied(), average.applied():
        np.testing.assert_allclose(flat(model), initial, atol=1e-6)
    with pytest.raises(KeyboardInterrupt), average.applied():
        raise KeyboardInterrupt
    torch.testing.assert_close(model.state_dict(), own, rtol=0, atol=0)
    assert [p.data_ptr() for p in model.parameters()] == pointers


def test_frozen_weights_are_those_of_the_model() -> None:
    model = TinyModel()
    model.embedding.requires_grad_(requires_grad=False)
    average = AveragedWeights(model, DECAY)
    assert not any(name.startswith("embedding") for name in average.state_dict()["weights"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mlp.0.bias", torch.zeros(3), "shape"),
        ("mlp.0.bias", torch.full((8,), torch.nan), "not finite"),
        ("mlp.0.bias", torch.zeros(8, dtype=torch.float64), "type"),
    ],
)
def test_a_state_that_does_not_fit_is_rejected(name: str, value: torch.Tensor, message: str) -> None:
    average = AveragedWeights(TinyModel(), DECAY)
    state = average.state_dict()
    state["weights"][name] = value
    with pytest.raises((ValueError, TypeError), match=message):
        average.load_state_dict(state)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an uninterrupted run with an average."""
    return train_tiny(tmp_path_factory.mktemp("whole"), "trainer.ema_decay=0.8", "checkpoint.best=loss")


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_to_the_bit(run: Path, tmp_path: Path) -> None:
    options = ["trainer.ema_decay=0.8", "checkpoint.best=loss"]
    resumed = train_tiny(tmp_path, *options, "trainer.epochs=2")
    for epochs in (3, 4):
        assert train(Request(overrides=[f"trainer.epochs={epochs}"], resume=str(resumed))) == 0
    assert points(resumed) == points(run)
    found, expected = (parts(newest_checkpoint(folder)) for folder in (resumed, run))
    for part in ("model", "average"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)


def parts(checkpoint: Path) -> Any:
    return read_content(checkpoint)["parts"]


def test_training_is_that_of_a_run_without_average_but_the_validation_is_not(run: Path, tmp_path: Path) -> None:
    plain = train_tiny(tmp_path, "checkpoint.best=loss")
    torch.testing.assert_close(parts(newest_checkpoint(plain))["model"], parts(newest_checkpoint(run))["model"])
    assert points(plain, "train_epoch") == points(run, "train_epoch")
    assert points(plain) != points(run)


def test_all_files_of_weights_contain_the_average(run: Path, tmp_path: Path) -> None:
    averages = parts(newest_checkpoint(run))["average"]["weights"]
    saved = tmp_path / "weights.pt"
    train(Request(resume=str(run), save=saved))
    for path in (saved, newest_checkpoint(run)):
        torch.testing.assert_close(read_state(path)[1], averages, rtol=0, atol=0)
    during = tmp_path / "during.pt"
    whole = train_tiny(tmp_path, "trainer.ema_decay=0.8", "checkpoint.best=loss")
    assert train(Request(overrides=["trainer.epochs=5"], resume=str(whole), save=during)) == 0
    last = parts(newest_checkpoint(whole))["average"]["weights"]
    torch.testing.assert_close(read_state(during)[1], last, rtol=0, atol=0)


def test_the_validation_and_the_best_weights_are_those_of_the_average(run: Path, tmp_path: Path) -> None:
    _, components = build_tiny(tmp_path)
    components.model.load_state_dict(read_state(run / "checkpoints" / "best.pt")[1])
    best = min(values["loss"] for values in points(run).values())
    losses, counts = [], []
    components.model.eval()
    for x, y in components.val.loader:
        losses.append(float(components.loss_fn(components.model(dict(x)), y)["loss"].detach()))
        counts.append(len(x["numbers"]))
    assert np.average(losses, weights=counts) == pytest.approx(best, rel=1e-6)


def test_the_average_cannot_be_switched_on_by_a_resume(tmp_path: Path) -> None:
    plain = train_tiny(tmp_path, "trainer.epochs=1")
    with pytest.raises(ConfigError, match=r"trainer.ema_decay was None in .* and cannot be 0.9 after a resume"):
        train(Request(overrides=["trainer.epochs=2", "trainer.ema_decay=0.9"], resume=str(plain)))
