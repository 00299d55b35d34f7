"""The random numbers continue after a resume, also on a machine with another number of GPUs."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from aimnet2mult.train.random_state import random_state, set_random_state


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002 - the global generator


def test_all_generators_continue() -> None:
    state = random_state()
    expected = draw()
    assert draw() != expected
    set_random_state(state)
    assert draw() == expected


@pytest.mark.parametrize(("saved", "present"), [(1, 8), (8, 1), (2, 2), (0, 1)])
def test_each_gpu_that_there_was_continues(monkeypatch: pytest.MonkeyPatch, saved: int, present: int) -> None:
    restored: dict[int, Tensor] = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.update({device: state}))
    states = [torch.full((16,), number, dtype=torch.uint8) for number in range(saved)]
    set_random_state({**random_state(), "cuda": states})
    assert {device: int(state[0]) for device, state in restored.items()} == {
        device: device for device in range(min(saved, present))
    }
