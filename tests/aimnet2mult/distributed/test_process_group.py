"""Errors of ranks, and their messages; test_rendezvous covers how they meet, test_several_ranks whole jobs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import aimnet2mult
from aimnet2mult.distributed.process_group import check_device_types, describe_lost_connection, process_group
from aimnet2mult.distributed.rank_info import RankInfo
from aimnet2mult.distributed.rendezvous import open_store
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.errors import ConfigError, RankLost
from support.ports import free_port


def test_a_rank_without_its_own_device_is_rejected_and_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    first = RankInfo(rank=0, world_size=2, host="127.0.0.1", port=free_port())
    store = open_store(first, StopSignal(), say=print)
    with pytest.raises(RankLost, match=r"rank 1 has local rank 1, .*sees only 1 CUDA device on .*--gpus-per-node"):
        process_group(replace(first, rank=1, local_rank=1), StopSignal(), say=print, store=store).__enter__()
    assert store.get("decision") == b"end"


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
