"""What keeps a rank from joining the others is said; that it works is seen in test_several_ranks."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import aimnet2mult
from aimnet2mult.distributed import process_group as group
from aimnet2mult.distributed.process_group import process_group
from aimnet2mult.distributed.rank_info import RankInfo
from aimnet2mult.errors import ConfigError, RankLost
from support.ports import free_port


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[RankInfo]:
    """Return the place of a rank whose first does not come."""
    monkeypatch.setattr(group, "TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    os.environ.update(meeting | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "SLURM_JOB_ID": "7"})
    yield RankInfo(rank=1, world=2, local_rank=1, by_torchrun=True)
    assert os.environ["SLURM_JOB_ID"] == "7"
    assert not torch.distributed.is_initialized()


def test_a_rank_does_not_wait_for_ever_for_the_others(alone: RankInfo) -> None:
    with pytest.raises(RankLost, match=r"rank 1 of 2 has not met the others: "), process_group(alone):
        pytest.fail("joined")


def test_a_rank_without_a_device_of_its_own_is_told_how_to_get_one(
    alone: RankInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RankLost, match=r"rank 1 is number 1 of its machine.*sees 1 CUDA .*--gpus-per-node"):
        process_group(alone).__enter__()


def test_ranks_on_devices_of_different_kinds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = group._Group.__new__(group._Group)
    monkeypatch.setattr(ranks, "_gather", lambda kind: ["cuda", "cuda", kind])
    with pytest.raises(ConfigError, match="rank 0 would train on cuda and rank 2 on cpu; set device=cpu"):
        ranks.set_device(torch.device("cpu"))


def test_nothing_but_the_group_exchanges_anything() -> None:
    root = Path(aimnet2mult.__file__).parent
    users = [path.name for path in root.rglob("*.py") if "torch.distributed" in path.read_text(encoding="utf-8")]
    assert users == ["process_group.py"]
