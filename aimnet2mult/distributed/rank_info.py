"""Who takes part in a training: one process, or several on one or many machines. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from aimnet2mult.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["Communicator", "RankInfo", "find_rank_info"]

T = TypeVar("T")

TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """Where this process stands among those that train together."""

    rank: int = 0
    """Its number among all, from 0."""
    world: int = 1
    """How many there are."""
    local_rank: int = 0
    """Its number among those of this machine."""
    by_torchrun: bool = False


def find_rank_info(environment: Mapping[str, str]) -> RankInfo:
    """Read this process's place from what torchrun or a step of SLURM has set; alone without either.

    torchrun counts more, since it can be started by SLURM. A batch script is no step: what it starts
    without srun is alone. Raises ConfigError for variables that do not fit together.
    """
    if _number(environment, "WORLD_SIZE", 1) > 1:
        missing = [name for name in TORCHRUN if name not in environment]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} is not set; start with "
                "torchrun or srun, or unset WORLD_SIZE to train with one process"
            )
        return _checked(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK", by_torchrun=True)
    if "WORLD_SIZE" not in environment and _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return _checked(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", by_torchrun=False)
    return RankInfo()


def _checked(environment: Mapping[str, str], rank: str, world: str, local: str, *, by_torchrun: bool) -> RankInfo:
    place = RankInfo(
        rank=_number(environment, rank),
        world=_number(environment, world),
        local_rank=_number(environment, local),
        by_torchrun=by_torchrun,
    )
    if not 0 <= place.rank < place.world or place.local_rank < 0:
        values = ", ".join(f"{name} is {environment[name]}" for name in (rank, world, local))
        raise ConfigError(f"{values}: no process of so many has such a number")
    return place


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, default)
    try:
        return int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is {value!r} in the environment: expected a whole number") from error


class Communicator:
    """The processes that train together, as one of them sees them; this one is alone and exchanges nothing.

    Where there are several, see `group`, each method is to be called by all ranks, in the same order.
    """

    rank = 0
    world = 1

    def set_device(self, device: torch.device) -> None:
        """Say where the tensors are that are added up, and the model. Raises ConfigError where the kinds differ."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a module whose backward pass leaves the mean of all ranks' gradients in the model's parameters.

        All ranks begin with rank 0's values. Every iteration has to give gradients to the same parameters.
        """
        return model

    def all_reduce_sum(self, tensor: Tensor) -> None:
        """Let a tensor, of the same shape everywhere, become its sum over the ranks, in place."""

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Return the largest of the ranks' values at each place. They are on the host, no device is waited for."""
        return list(values)

    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        return value

    def run_on_all(self, function: Callable[[], T]) -> T:
        """Return what a function gives here, unless it raises on a rank, which then raises on all.

        Where it raised here, that is raised, elsewhere RankLost. The function must not exchange anything.
        """
        return function()
