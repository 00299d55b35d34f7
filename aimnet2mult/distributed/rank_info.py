"""The rank of this process and where rank 0 is, from the variables set by torchrun or SLURM. Does not import torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from aimnet2mult.errors import ConfigError

__all__ = ["RankInfo", "find_rank_info"]

TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

SLURM_PORT = 15_000
"""In a SLURM step, the port of rank 0 is this plus the last four digits of the job ID."""


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """The rank of this process in the job."""

    rank: int = 0
    """Index among all processes, from 0."""
    world_size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Index among the processes of this machine, from 0."""
    host: str = ""
    """Name or address of the machine of rank 0; empty for a single process."""
    port: int = 0
    """Port on which the ranks meet; 0 for a single process."""
    job: str = ""
    """ID of the SLURM step; empty without SLURM."""
    by_agent: bool = False
    """Whether torchrun, rather than rank 0, serves the port."""


def find_rank_info(environment: Mapping[str, str]) -> RankInfo:
    """Read the rank of this process from the variables of torchrun or a SLURM step; without them, it is rank 0 of 1.

    torchrun takes precedence, since SLURM can start it. A batch script is not a step: without srun, it starts a single
    process.

    Raises:
        ConfigError: the variables are incomplete or contradict each other.
    """
    if _integer(environment, "WORLD_SIZE", 1) > 1:
        return _read_torchrun(environment)
    if "WORLD_SIZE" not in environment and _integer(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return _read_slurm(environment)
    return RankInfo()


def _read_torchrun(environment: Mapping[str, str]) -> RankInfo:
    missing = [name for name in TORCHRUN_VARIABLES if name not in environment]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} is not set; start with "
            "torchrun or srun, or unset WORLD_SIZE to train with one process"
        )
    # After a restart, torchrun's store still contains the addresses of the processes that died.
    restarts = _integer(environment, "TORCHELASTIC_RESTART_COUNT", 0)
    port = _integer(environment, "MASTER_PORT") + restarts
    by_agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not restarts
    place = _read_place(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK")
    return replace(place, host=environment["MASTER_ADDR"], port=port, by_agent=by_agent)


def _read_slurm(environment: Mapping[str, str]) -> RankInfo:
    place = _read_place(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    host = environment.get("MASTER_ADDR") or (nodes and _first_node(nodes))
    if not host:
        raise ConfigError(f"SLURM_STEP_NODELIST is {nodes!r} in the environment: expected the nodes of the step")
    if "MASTER_PORT" in environment:
        port = _integer(environment, "MASTER_PORT")
    else:
        port = SLURM_PORT + _integer(environment, "SLURM_JOB_ID") % 10_000
    job = ".".join(environment[name] for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if name in environment)
    return replace(place, host=host, port=port, job=job)


def _first_node(nodes: str) -> str:
    """Return the first name in SLURM's notation, such as ``n1`` for ``n[1-3,7],login``."""
    first = re.match(r"(?:\[[^]]*]|[^,[])*", nodes)
    return re.sub(r"\[([^],-]*)[^]]*]", r"\1", first[0] if first else "")


def _read_place(environment: Mapping[str, str], rank: str, world_size: str, local: str) -> RankInfo:
    index, size, local_index = (_integer(environment, name) for name in (rank, world_size, local))
    if not 0 <= index < size or local_index < 0:
        values = ", ".join(f"{name} is {environment[name]}" for name in (rank, world_size, local))
        raise ConfigError(f"{values} in the environment: expected 0 ≤ {rank} < {world_size} and {local} ≥ 0")
    return RankInfo(rank=index, world_size=size, local_rank=local_index)


def _integer(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, default)
    try:
        return int(value)  # type: ignore[arg-type] # None is reported like any other value that is not a number
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is {value!r} in the environment: expected a whole number") from error
