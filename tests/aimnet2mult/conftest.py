"""Repeatable training on one thread."""

from collections.abc import Iterator

import pytest
import torch

from support import tiny_model
from support.sample_runs import TrainedRun, train_part


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Return a small run on two fidelities, for tests that only read it."""
    torch.set_num_threads(1)
    return train_part(tmp_path_factory.mktemp("trained"))


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Use one thread and a fixed seed; cancel the stop that a test may have requested of the tiny model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny_model.Stopping.calls_left = None
    yield
    tiny_model.Stopping.calls_left = None
    torch.set_num_threads(before)
