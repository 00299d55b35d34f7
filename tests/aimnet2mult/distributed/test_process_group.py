"""Errors of ranks, and their messages; test_rendezvous covers how they meet, test_several_ranks whole jobs."""

from pathlib import Path

import pytest
import torch

import aimnet2mult
from aimnet2mult.distributed.process_group import check_device_types, describe_lost_connection, process_group
from aimnet2mult.distributed.rank_info import RankInfo
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.errors import ConfigError, RankLost


def test_a_rank_without_its_own_device_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    second = RankInfo(rank=1, world_size=2, local_rank=1, host="127.0.0.1", port=1)
    with pytest.raises(RankLost, match=r"rank 1 has local rank 1, .*sees only 1 CUDA device on .*--gpus-per-node"):
        process_group(second, StopSignal(), say=print).__enter__()


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


def test_only_two_modules_use_torch_distributed() -> None:
    root = Path(aimnet2mult.__file__).parent
    users = [path.name for path in root.rglob("*.py") if "torch.distributed" in path.read_text(encoding="utf-8")]
    assert sorted(users) == ["process_group.py", "rendezvous.py"]
