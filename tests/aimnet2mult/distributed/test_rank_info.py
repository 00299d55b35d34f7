"""The rank of a process, from the variables of its launcher."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.rank_info import RankInfo, find_rank_info
from aimnet2mult.errors import ConfigError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
STEP = {
    "SLURM_JOB_ID": "4120007",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
BY_TORCHRUN = RankInfo(rank=5, world_size=8, local_rank=1, host="node1", port=29500)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, RankInfo()),
        (TORCHRUN, BY_TORCHRUN),
        (STEP, RankInfo(rank=3, world_size=4, local_rank=1, host="node3", port=15_007, job="4120007.2")),
        # A batch script has the variables of the job but is not one of its tasks; a task can start torchrun.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, RankInfo()),
        (STEP | TORCHRUN, BY_TORCHRUN),
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, RankInfo()),
        (STEP | {"WORLD_SIZE": "1"}, RankInfo()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, RankInfo()),
        ({"RANK": "3"}, RankInfo()),
    ],
    ids=["none", "torchrun", "step", "batch script", "torchrun in a step", "one task", "torchrun of one", "1", "stray"],
)
def test_the_rank_is_the_one_the_launcher_assigned(environment: Mapping[str, str], expected: RankInfo) -> None:
    assert find_rank_info(environment) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu7,gpu9", "gpu7"),
        ("gpu[007-012,020]", "gpu007"),
        ("gpu[3,5],login1", "gpu3"),
        ("rack[1-2]node[04,06]-ib", "rack1node04-ib"),
    ],
)
def test_ranks_of_a_step_meet_on_its_first_node(nodes: str, first: str) -> None:
    environment = {**STEP, "SLURM_STEP_NODELIST": nodes}
    assert find_rank_info(environment).host == first
    del environment["SLURM_STEP_NODELIST"]
    assert find_rank_info({**environment, "SLURM_JOB_NODELIST": nodes}).host == first


def test_master_addr_and_port_choose_another_meeting_place_in_a_step() -> None:
    info = find_rank_info(STEP | {"MASTER_ADDR": "10.0.0.3", "MASTER_PORT": "29511"})
    assert (info.host, info.port, info.by_agent) == ("10.0.0.3", 29511, False)


def test_a_restart_by_torchrun_leaves_the_store_that_contains_dead_processes() -> None:
    agent = TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert find_rank_info(agent).by_agent
    again = find_rank_info(agent | {"TORCHELASTIC_RESTART_COUNT": "2"})
    assert (again.by_agent, again.port) == (False, 29502)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"WORLD_SIZE": "2", "RANK": "1"},
            "WORLD_SIZE is 2, but LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set",
        ),
        (
            TORCHRUN | {"RANK": "8"},
            "RANK is 8, WORLD_SIZE is 8, LOCAL_RANK is 1 in the environment: expected 0 ≤ RANK < WORLD_SIZE",
        ),
        (TORCHRUN | {"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many' in the environment: expected a whole number"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID is None in the environment"),
        (STEP | {"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST is None in the environment: expected the nodes"),
    ],
)
def test_contradictory_variables_are_rejected(environment: Mapping[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_rank_info(environment)


def test_a_single_rank_does_not_communicate() -> None:
    ranks, model, tensor = Communicator(), nn.Linear(1, 1), torch.ones(2)
    ranks.set_device(torch.device("cpu"))
    ranks.all_reduce_sum(tensor)
    assert ranks.wrap(model) is model
    assert tensor.tolist() == [1, 1]
    assert (ranks.all_reduce_max([3]), ranks.broadcast("a"), ranks.run_on_all(lambda: 4)) == ([3], "a", 4)
    assert not torch.distributed.is_initialized()
