"""Files of weights are written and loaded, and a summary reports what did not fit."""

import resource
import signal
from pathlib import Path

import pytest
import torch
from aimnet.modules import Forces

from aimnet2mult.errors import CheckpointError, ConfigError
from aimnet2mult.models.checkpoint_folder import checkpoint_path
from aimnet2mult.models.initial_weights import load_weights
from aimnet2mult.models.saved_model import read_saved_model
from aimnet2mult.models.weights import save_checkpoint_weights, save_weights
from aimnet2mult.train.checkpoint_file import write_checkpoint
from support.saved_models import TINY_DESCRIPTION as DESCRIPTION
from support.tiny_model import TinyCore


def test_weights_do_not_depend_on_the_wrapper_for_forces(tmp_path: Path) -> None:
    one, other = TinyCore(), TinyCore()
    save_weights(Forces(one), DESCRIPTION, tmp_path / "w.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
    assert (
        load_weights(Forces(other), tmp_path / "w.pt").summary
        == f"weights: 5 of 5 arrays loaded from {tmp_path / 'w.pt'}; fid0 continues tiny"
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_arrays_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = TinyCore().state_dict()
    state["other"] = state.pop("embedding.weight")
    torch.save(state, tmp_path / "w.pt")
    model = TinyCore()
    before = model.embedding.weight.clone()
    line = load_weights(model, tmp_path / "w.pt").summary
    assert line.endswith("initial values kept for embedding.weight; not used: other")
    assert line.startswith("weights: 4 of 5 arrays")
    assert torch.equal(model.embedding.weight, before)


def test_arrays_of_another_shape_are_rejected(tmp_path: Path) -> None:
    save_weights(TinyCore(features=5), DESCRIPTION, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w.pt does not contain weights of this model: .*size mismatch"):
        load_weights(TinyCore(), tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04"])
def test_a_file_without_weights_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"w.pt does not contain weights"):
        load_weights(TinyCore(), tmp_path / "w.pt")


def test_a_file_with_weights_of_another_model_is_rejected(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"contains no weights of this model; it contains a"):
        load_weights(TinyCore(), tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"does not contain weights"):
        load_weights(TinyCore(), tmp_path / "w.pt")


def test_weights_are_loaded_from_a_checkpoint(tmp_path: Path) -> None:
    one, other = TinyCore(), TinyCore()
    path = checkpoint_path(tmp_path, 7)
    write_checkpoint(path, {"model": Forces(one)}, {"iteration": 7})
    assert load_weights(Forces(other), path).summary.startswith("weights: 5 of 5 arrays")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_weights_in_a_checkpoint_are_saved_without_the_prefix_of_the_wrapper(tmp_path: Path) -> None:
    model = TinyCore()
    write_checkpoint(tmp_path / "step-00000001.pt", {"model": Forces(model)}, {}, DESCRIPTION)
    save_checkpoint_weights(tmp_path / "step-00000001.pt", tmp_path, tmp_path / "w.pt")
    saved = read_saved_model(tmp_path / "w.pt")
    assert list(saved.state) == list(model.state_dict())
    assert all(torch.equal(saved.state[name], value) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*w.pt"):
        save_checkpoint_weights(tmp_path / "w.pt", tmp_path, tmp_path / "again.pt")


def test_a_failed_write_raises_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    # A tensor that torch.save would write directly raises RuntimeError on a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_weights(TinyCore(), DESCRIPTION, tmp_path / "w.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
