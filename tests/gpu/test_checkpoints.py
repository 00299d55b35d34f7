"""A checkpoint of a GPU continues on a CPU, and back, with the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from aimnet2mult.train.checkpoint_file import load_checkpoint, write_checkpoint
from aimnet2mult.train.components import Components
from aimnet2mult.train.plan import Request
from aimnet2mult.train.random_state import random_state, set_random_state
from aimnet2mult.train.runner import train
from support.gpu import Loop, build
from support.sample_runs import train_part
from support.tiny_runs import points
from telemetry import read_receipt

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")


def parts(components: Components) -> dict[str, Any]:
    return {
        "model": components.model,
        "optimizer": components.optimizer,
        "train_sums": components.train_sums,
        "average": components.average,
    }


def values(state: Any) -> list[Any]:
    """Return all tensors of a state, on the CPU."""
    if isinstance(state, dict):
        return [found for value in state.values() for found in values(value)]
    if isinstance(state, list | tuple):
        return [found for value in state for found in values(value)]
    return [state.detach().cpu()] if isinstance(state, torch.Tensor) else []


def bits(components: Components) -> list[torch.Tensor]:
    return [tensor for part in parts(components).values() for tensor in values(part.state_dict())]


def test_a_checkpoint_moves_to_the_cpu_and_back(tmp_path: Path, device: torch.device) -> None:
    loop = Loop(tmp_path / "first", device, "trainer.epochs=1")
    loop.run()
    expected = bits(loop.components)
    assert len(expected) > 20
    components = loop.components
    for number, target in enumerate((CPU, device, device)):
        path = tmp_path / f"{number}.pt"
        write_checkpoint(path, parts(components), {"iteration": 40})
        _, components = build(tmp_path / f"on{number}", target)
        assert load_checkpoint(path, parts(components)) == {"iteration": 40}
        found = bits(components)
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
        assert {p.device.type for p in components.model.parameters()} == {target.type}


def test_the_random_numbers_of_the_device_continue(device: torch.device) -> None:
    torch.rand(3, device=device)
    state = random_state()
    expected = torch.rand(5, device=device)
    set_random_state(state)
    assert torch.equal(torch.rand(5, device=device), expected)


@pytest.mark.parametrize("places", [("here", "here"), ("here", "cpu"), ("cpu", "here")], ids=" then ".join)
def test_a_resumed_run_has_the_curves_of_an_uninterrupted_one(
    tmp_path: Path, device: torch.device, places: tuple[str, str]
) -> None:
    first, second = (device.type if place == "here" else "cpu" for place in places)
    folders = [tmp_path / "whole", tmp_path / "resumed"]
    for folder in folders:
        folder.mkdir()
    whole = train_part(folders[0], f"device={device.type}").folder
    resumed = train_part(folders[1], f"device={first}", "trainer.epochs=1").folder
    assert train(Request(resume=str(resumed), overrides=[f"device={second}", "trainer.epochs=2"])) == 0
    assert read_receipt(resumed).status == "finished"
    for stream in ("val", "train_window"):
        expected, found = points(whole, stream), points(resumed, stream)
        assert max(expected) == max(found)
        for name in ("loss", "F_rmse", "E_rmse"):
            assert found[max(found)][name] == pytest.approx(expected[max(expected)][name], rel=5e-3)
