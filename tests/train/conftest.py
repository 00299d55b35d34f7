"""What the tests of training share."""

from collections.abc import Iterator

import pytest
import torch

from support import tiny_model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Train on one thread, and leave no wish to stop behind."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    tiny_model.Stopping.calls_left = None
    yield
    tiny_model.Stopping.calls_left = None
    torch.set_num_threads(before)
