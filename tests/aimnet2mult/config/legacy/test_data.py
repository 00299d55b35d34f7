"""Data sets of the original format."""

from pathlib import Path

import pytest

from aimnet2mult.config.schema import load
from aimnet2mult.errors import ConfigError
from support.legacy_settings import FILES, NAMES, notes, read


def test_indices_become_integers_and_placeholders_are_removed(tmp_path: Path, data: list[str]) -> None:
    text = (FILES / "plateau.yaml").read_text()
    text = text.replace("fidelity_datasets: {}", "fidelity_datasets: {'0': 0.h5, 1: '???'}", 1)
    (tmp_path / "train.yaml").write_text(text)
    config = load([tmp_path / "train.yaml"], NAMES)
    assert config.data.fidelity_datasets == {0: str(tmp_path / "0.h5")}


def test_missing_inputs_are_noted(data: list[str], caplog: pytest.LogCaptureFixture) -> None:
    read("plateau", data, "data.x=[coord, numbers, charge]")
    assert "mult will also be used" in notes(caplog)["data.x"]


def test_inputs_that_a_model_does_not_have_are_rejected(data: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"data.x contains cell; the inputs of a model are coord"):
        read("plateau", data, "data.x=[coord, numbers, charge, mult, cell]")


def test_validation_sets_take_effect_and_are_noted(
    tmp_path: Path, data: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = read("plateau", data, f"data.val_fidelity_datasets.1={tmp_path / '1.h5'}")
    assert config.data.val_fidelity_datasets == {1: str(tmp_path / "1.h5")}
    assert "takes effect here" in notes(caplog)["data.val_fidelity_datasets"]


def test_without_separate_validation_the_training_sets_are_used(
    data: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = read("plateau", data, "data.separate_val=false").data
    assert config.val_fidelity_datasets == config.fidelity_datasets
    assert "data.val_fidelity_datasets" not in notes(caplog)
