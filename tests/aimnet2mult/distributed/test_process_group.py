"""Errors of ranks that cannot join the others, and their messages; test_several_ranks covers whole jobs."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import aimnet2mult
from aimnet2mult.distributed.process_group import check_device_types, describe_lost_connection, process_group
from aimnet2mult.distributed.rank_info import RankInfo
from aimnet2mult.errors import ConfigError, RankLost
from support.ports import free_port

TIMEOUT = timedelta(seconds=1)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[RankInfo]:
    """Return a rank whose rank 0 never starts."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.environ.update(meeting | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "SLURM_JOB_ID": "7"})
    yield RankInfo(rank=1, world_size=2, local_rank=1, by_torchrun=True)
    assert os.environ["SLURM_JOB_ID"] == "7"
    assert not torch.distributed.is_initialized()


def test_joining_times_out(alone: RankInfo) -> None:
    with (
        pytest.raises(RankLost, match=r"rank 1 of 2 could not join the others: "),
        process_group(alone, timeout=TIMEOUT),
    ):
        pytest.fail("joined")


def test_a_rank_without_its_own_device_is_rejected(alone: RankInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RankLost, match=r"rank 1 has local rank 1, .*sees only 1 CUDA device on .*--gpus-per-node"):
        process_group(alone).__enter__()


def test_ranks_on_devices_of_different_types_are_rejected() -> None:
    check_device_types(["cuda", "cuda"])
    with pytest.raises(ConfigError, match="rank 0 would train on cuda and rank 2 on cpu; set device=cpu"):
        check_device_types(["cuda", "cuda", "cpu"])


@pytest.mark.parametrize(
    ("silent", "message"),
    [
        ([1], "lost contact with rank 1, which has died or is disconnected: Connection reset by peer"),
        ([1, 2], "lost contact with ranks 1, 2, which have died or are disconnected: Connection reset by peer"),
        ([], "the ranks lost contact with each other, although none of them has failed: Connection reset by peer"),
    ],
)
def test_a_lost_connection_names_the_ranks_that_reported_nothing(silent: list[int], message: str) -> None:
    assert describe_lost_connection(silent, RuntimeError("Connection reset\n by peer")) == message


def test_only_process_group_uses_torch_distributed() -> None:
    root = Path(aimnet2mult.__file__).parent
    users = [path.name for path in root.rglob("*.py") if "torch.distributed" in path.read_text(encoding="utf-8")]
    assert users == ["process_group.py"]
