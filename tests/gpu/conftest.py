"""The device of the tests marked `gpu`, which run with ``make test-gpu``; ``--device=cpu`` rehearses them."""

from collections.abc import Iterator

import pytest
import torch

from support.sample_runs import TrainedRun, train_part


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    name = pytestconfig.getoption("--device")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("cannot be rehearsed on the CPU")
    return device


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> TrainedRun:
    """Return a run of the sample that was trained on the device."""
    return train_part(tmp_path_factory.mktemp("run"), f"device={device.type}", "trainer.ema_decay=0.9")


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
