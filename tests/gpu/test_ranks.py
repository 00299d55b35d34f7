"""Ranks on GPUs: DDP with NCCL on one GPU, and jobs of two ranks where there are two."""

import copy
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from aimnet2mult.distributed.process_group import ProcessGroupCommunicator
from aimnet2mult.distributed.rank_info import RankInfo
from support.ports import free_port
from support.rank_jobs import Launcher, torchrun_environments
from support.sample_runs import SAMPLE, write_part
from support.tiny_runs import points

pytestmark = pytest.mark.gpu


@pytest.fixture
def only_rank(device: torch.device) -> Iterator[ProcessGroupCommunicator]:
    """Return the communicator of a job with one rank, which has a group of NCCL on CUDA."""
    dist = torch.distributed
    store = dist.TCPStore(socket.gethostbyname("localhost"), free_port(), 1, is_master=True)
    communicator = ProcessGroupCommunicator(RankInfo(world_size=1), store)
    communicator.set_device(device)
    yield communicator
    dist.destroy_process_group()


def test_ddp_has_the_gradients_of_the_model(only_rank: ProcessGroupCommunicator, device: torch.device) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1)).to(device)
    plain, x = copy.deepcopy(model), torch.randn(5, 3, device=device)
    wrapped = only_rank.wrap(model)
    for _ in range(2):
        for one in (wrapped, plain):
            one.zero_grad()
            one(x).square().sum().backward()
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_sums_and_messages_of_ranks(only_rank: ProcessGroupCommunicator, device: torch.device) -> None:
    for dtype in (torch.float64, torch.int64, torch.uint8):
        tensor = torch.arange(4, device=device).to(dtype)
        only_rank.all_reduce_sum(tensor)
        assert tensor.tolist() == [0, 1, 2, 3]
    # Through Gloo, on the CPU.
    assert only_rank.all_reduce_max([3, 5]) == [3, 5]
    assert only_rank.broadcast({"a": 1}) == {"a": 1}


def test_reducing_does_not_wait_for_the_device(only_rank: ProcessGroupCommunicator, cuda: torch.device) -> None:
    tensor = torch.ones(4, device=cuda)
    only_rank.all_reduce_sum(tensor)
    torch.cuda.set_sync_debug_mode("error")
    try:
        only_rank.all_reduce_sum(tensor)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tensor.tolist() == [1] * 4


def test_two_ranks_have_the_curves_of_one(tmp_path: Path, device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs: NCCL does not support two ranks on one")
    files = [write_part(SAMPLE / f"{name}.h5", tmp_path / f"{name}.h5") for name in ("gfn1", "spgfn2")]
    arguments = [
        *("train", "--config", SAMPLE / "train.yaml", "--model", SAMPLE / "model.yaml"),
        *("--telemetry-sinks", "none", f"device={device.type}", "trainer.epochs=1"),
        *(f"data.fidelity_datasets.{index}={path}" for index, path in enumerate(files)),
        "data.samplers.train={batch_size: 8, batches_per_epoch: 10}",
    ]
    curves = {}
    with Launcher(double=False) as launcher:
        for world in (1, 2):
            runs = tmp_path / f"runs{world}"
            environments = torchrun_environments(world) if world > 1 else [{}]
            job = launcher.start(tmp_path / f"job{world}", [*arguments, "--telemetry-dir", runs], environments)
            assert job.wait() == [0] * world, job.stderr(0)
            (run,) = runs.iterdir()
            curves[world] = points(run)
    assert curves[1].keys() == curves[2].keys() != set()
    for step, expected in curves[1].items():
        assert curves[2][step]["loss"] == pytest.approx(expected["loss"], rel=1e-3)
