"""Runs in each precision: what is saved, loaded, resumed and refused."""

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from aimnet2mult.config.schema import load
from aimnet2mult.errors import ConfigError
from aimnet2mult.models.weights import read_state
from aimnet2mult.train.components import Components, build_components
from aimnet2mult.train.plan import Request
from aimnet2mult.train.precision import for_evaluation, prepare_device
from aimnet2mult.train.runner import train
from support.file_contents import read_content
from support.tiny_runs import build_tiny, newest_checkpoint, points, train_tiny, write_data

CPU = torch.device("cpu")


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read_content(newest_checkpoint(run))["parts"]["model"]
    return found


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in float64."""
    options = ["trainer.precision=float64", "trainer.ema_decay=0.9", "checkpoint.best=loss"]
    return train_tiny(tmp_path_factory.mktemp("double"), *options)


def test_training_in_float64_follows_that_in_float32_at_first(double: Path, tmp_path: Path) -> None:
    single = train_tiny(tmp_path, "trainer.epochs=1", "telemetry.every=1")
    assert {array.dtype for array in weights(double).values()} == {torch.float64}
    first, expected = (points(run, "train_epoch")[3] for run in (double, single))
    assert {**first, "it_per_s": 0} == pytest.approx({**expected, "it_per_s": 0}, rel=1e-4)


def test_a_run_in_float64_is_resumed_to_the_bit(double: Path, tmp_path: Path) -> None:
    options = ["trainer.precision=float64", "trainer.ema_decay=0.9", "checkpoint.best=loss", "trainer.epochs=2"]
    run = train_tiny(tmp_path, *options)
    assert train(Request(overrides=["trainer.epochs=4"], resume=str(run))) == 0
    torch.testing.assert_close(weights(run), weights(double), rtol=0, atol=0)
    assert points(run) == points(double)


def test_the_precision_cannot_be_changed_by_a_resume(double: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer.precision was 'float64' .* cannot be 'float32' after a resume"):
        train(Request(overrides=["trainer.epochs=5", "trainer.precision=float32"], resume=str(double)))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("source", ["best", "checkpoint", "saved"])
def test_weights_in_float64_are_loaded_in_any_precision(
    double: Path, source: str, precision: str, tmp_path: Path
) -> None:
    path = {
        "best": double / "checkpoints" / "best.pt",
        "checkpoint": newest_checkpoint(double),
        "saved": tmp_path / "saved.pt",
    }[source]
    if source == "saved":
        train(Request(resume=str(double), save=path))
    expected = read_state(path)[1]
    assert {array.dtype for array in expected.values()} == {torch.float64}
    state = components_with(path, precision, tmp_path).model.state_dict()
    assert {str(array.dtype) for array in state.values()} == {f"torch.{precision}"}
    for name, array in state.items():
        torch.testing.assert_close(array, expected[name].to(array.dtype), rtol=0, atol=0)


def test_weights_in_float32_are_loaded_into_a_model_in_float64(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, "trainer.epochs=1")
    state = components_with(newest_checkpoint(run), "float64", tmp_path).model.state_dict()
    for name, array in weights(run).items():
        torch.testing.assert_close(state[name], array.double(), rtol=0, atol=0)


def components_with(path: Path, precision: str, folder: Path) -> Components:
    config, _ = build_tiny(folder, f"trainer.precision={precision}")
    return build_components(config, {"class": "support.tiny_model.TinyCore"}, folder, weights=path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.tf32=true"], "trainer.tf32 is true, but the CPU has no TF32; set trainer.tf32=false"),
        (["trainer.tf32=true", "trainer.precision=float64"], "trainer.tf32 is true, but has no effect on float64"),
        (["trainer.precision=float16"], r"trainer.precision.*float16"),
        (["trainer.precision=bfloat16"], r"trainer.precision is bfloat16, which requires an aimnet.models.AIMNet2"),
    ],
)
def test_settings_without_effect_are_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        build_tiny(tmp_path, *overrides)


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_an_evaluation_needs_no_hardware_that_only_the_training_needs(precision: str, tmp_path: Path) -> None:
    config = load([], [f"data.fidelity_datasets.0={write_data(tmp_path / 'a.h5', 4, 0)}"])
    trained = replace(config, trainer=replace(config.trainer, precision=precision, tf32=precision != "float64"))
    found = for_evaluation(trained, CPU).trainer
    assert (found.precision, found.tf32) == ("float64" if precision == "float64" else "float32", False)
    prepare_device(found, CPU)
