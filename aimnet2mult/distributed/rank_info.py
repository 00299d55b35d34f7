"""The rank of this process, from the variables set by torchrun or SLURM. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aimnet2mult.errors import ConfigError

__all__ = ["RankInfo", "find_rank_info"]

TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """The rank of this process in the job."""

    rank: int = 0
    """Index among all processes, from 0."""
    world_size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Index among the processes of this machine, from 0."""
    by_torchrun: bool = False
    """Whether torchrun, rather than SLURM, assigned the rank."""


def find_rank_info(environment: Mapping[str, str]) -> RankInfo:
    """Read the rank of this process from the variables of torchrun or a SLURM step; without them, it is rank 0 of 1.

    torchrun takes precedence, since SLURM can start it. A batch script is not a step: without srun, it starts a single
    process.

    Raises:
        ConfigError: the variables are incomplete or contradict each other.
    """
    if _integer(environment, "WORLD_SIZE", 1) > 1:
        missing = [name for name in TORCHRUN_VARIABLES if name not in environment]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} is not set; start with "
                "torchrun or srun, or unset WORLD_SIZE to train with one process"
            )
        return _read(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK", by_torchrun=True)
    if "WORLD_SIZE" not in environment and _integer(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return _read(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", by_torchrun=False)
    return RankInfo()


def _read(environment: Mapping[str, str], rank: str, world_size: str, local: str, *, by_torchrun: bool) -> RankInfo:
    info = RankInfo(
        rank=_integer(environment, rank),
        world_size=_integer(environment, world_size),
        local_rank=_integer(environment, local),
        by_torchrun=by_torchrun,
    )
    if not 0 <= info.rank < info.world_size or info.local_rank < 0:
        values = ", ".join(f"{name} is {environment[name]}" for name in (rank, world_size, local))
        raise ConfigError(f"{values} in the environment: expected 0 ≤ {rank} < {world_size} and {local} ≥ 0")
    return info


def _integer(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, default)
    try:
        return int(value)  # type: ignore[arg-type] # None is reported like any other value that is not a number
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is {value!r} in the environment: expected a whole number") from error
