"""Files of weights are written whole, and say what they did not fit."""

from pathlib import Path

import pytest
import torch
from aimnet.modules import Forces

from aimnet2mult.errors import ConfigError
from aimnet2mult.models.weights import load_weights, save_weights
from aimnet2mult.train.checkpoint_files import checkpoint_path
from aimnet2mult.train.checkpointing import write_checkpoint
from support.tiny_model import TinyCore


def test_weights_of_a_model_with_forces_are_those_of_the_model(tmp_path: Path) -> None:
    one, other = TinyCore(), TinyCore()
    save_weights(Forces(one), tmp_path / "w.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
    assert load_weights(Forces(other), tmp_path / "w.pt") == f"weights: 5 of 5 arrays from {tmp_path / 'w.pt'}"
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = TinyCore().state_dict()
    state["other"] = state.pop("embedding.weight")
    torch.save(state, tmp_path / "w.pt")
    model = TinyCore()
    before = model.embedding.weight.clone()
    line = load_weights(model, tmp_path / "w.pt")
    assert line.endswith("initial values for embedding.weight; not used: other")
    assert line.startswith("weights: 4 of 5 arrays")
    assert torch.equal(model.embedding.weight, before)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_weights(TinyCore(features=5), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w.pt does not hold weights of this model: .*size mismatch"):
        load_weights(TinyCore(), tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"w.pt does not hold weights"):
        load_weights(TinyCore(), tmp_path / "w.pt")


def test_a_file_with_nothing_in_common_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"holds no weight of this model; it has a"):
        load_weights(TinyCore(), tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"does not hold weights"):
        load_weights(TinyCore(), tmp_path / "w.pt")


def test_a_checkpoint_is_a_file_of_weights_too(tmp_path: Path) -> None:
    one, other = TinyCore(), TinyCore()
    path = checkpoint_path(tmp_path, 7)
    write_checkpoint(path, {"model": Forces(one)}, {"iteration": 7})
    assert load_weights(Forces(other), path).startswith("weights: 5 of 5 arrays")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
