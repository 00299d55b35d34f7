"""Several ranks: a process group of ``ignite.distributed``, and what is exchanged in it."""

import contextlib
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aimnet2mult.distributed.rank_info import Communicator, RankInfo
from aimnet2mult.errors import ConfigError, RankLost
from telemetry.errors import format_error

__all__ = ["TIMEOUT", "process_group"]

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others, as they start and in each exchange: longer than any reads its data."""

GRACE = 2.0
"""Seconds that a rank which has lost the others waits for what they have to say."""


@contextlib.contextmanager
def process_group(place: RankInfo) -> Iterator[Communicator]:
    """Give the ranks of the job, once all are there; no one leaves before all are done.

    An error that another rank is behind becomes a RankLost; so is raised for a rank without a device of its own.
    """
    if place.world == 1:
        yield Communicator()
        return
    group = _Group(place)
    try:
        yield group
        group.all_reduce_max([0])
    except BaseException as error:
        lost = group.blame(error)
        if lost is None:
            raise
        raise lost from error
    finally:
        # At an error this closes the connections, so that the others notice at once.
        with contextlib.suppress(RuntimeError):
            idist.finalize()


class _Group(Communicator):
    """The group of all ranks is gloo's, for what is on the host; for CUDA there is one of NCCL's beside it.

    So that ranks agree, and notice that one has died, without waiting for a device.
    """

    def __init__(self, place: RankInfo) -> None:
        self.rank = place.rank
        self.world = place.world
        self._device: torch.device | None = None
        self._device_group: dist.ProcessGroup | None = None
        _check_device(place)
        _initialize(place)
        self._words = _words()

    def set_device(self, device: torch.device) -> None:
        kinds = self._gather(device.type)
        other = next((rank for rank, kind in enumerate(kinds) if kind != kinds[0]), None)
        if other is not None:
            raise ConfigError(
                f"rank 0 would train on {kinds[0]} and rank {other} on {kinds[other]}; "
                "set device=cpu, or leave out the machine without CUDA"
            )
        self._device = device
        if device.type == "cuda":
            self._device_group = dist.new_group(backend="nccl", timeout=TIMEOUT)

    def wrap(self, model: nn.Module) -> nn.Module:
        # Of one row or column, where strides mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        ids = None if self._device is None or self._device.index is None else [self._device.index]
        # Not every parameter is in the loss: the heads of labels that are not learnt are not. Which ones are is the
        # same in every iteration, as labels that are missing have gradients of 0.
        return DistributedDataParallel(model, device_ids=ids, process_group=self._device_group, static_graph=True)

    def all_reduce_sum(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor, group=self._device_group)

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def broadcast(self, value: T) -> T:
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def run_on_all(self, function: Callable[[], T]) -> T:
        error = result = None
        try:
            result = function()
        except Exception as caught:  # noqa: BLE001 - raised again, when all have said how it went
            error = caught
        said = self._gather(None if error is None else f"on {socket.gethostname()}: {format_error(error)}")
        if error is not None:
            raise error
        for rank, words in enumerate(said):
            if words is not None:
                raise RankLost(f"rank {rank} {words}", reported=True)
        return result  # type: ignore[return-value]

    def blame(self, error: BaseException) -> RankLost | None:
        """Return what to raise for an error that another rank is behind; tell the others of one of one's own."""
        if isinstance(error, RankLost):
            return None
        own = not _is_of_connection(error)
        with contextlib.suppress(RuntimeError):
            self._words.set(str(self.rank), format_error(error) if own else "")
        if own:
            return None
        last = self._last_words()
        failed = [f"rank {rank} failed: {words}" for rank, words in last.items() if words]
        silent = ", ".join(str(rank) for rank in range(self.world) if rank not in last)
        if not failed:
            reason = " ".join(str(error).split())
            failed = [f"no word from rank {silent}, which has died or is cut off: {reason:.200}"]
        return RankLost("; ".join(failed), reported=0 in last)

    def _last_words(self) -> dict[int, str]:
        """Return what each rank said as it ended: "" where it only noticed that others have."""
        deadline, last = time.monotonic() + GRACE, dict.fromkeys((self.rank,), "")
        with contextlib.suppress(RuntimeError):
            while True:
                there = [rank for rank in range(self.world) if self._words.check([str(rank)])]
                last |= {rank: self._words.get(str(rank)).decode(errors="replace") for rank in there}
                if any(last.values()) or len(last) == self.world or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        return last

    def _gather(self, value: T) -> list[T]:
        held: list[Any] = [None] * self.world
        dist.all_gather_object(held, value)
        return held


def _check_device(place: RankInfo) -> None:
    found = torch.cuda.device_count()
    if 0 < found <= place.local_rank:
        raise RankLost(
            f"rank {place.rank} is number {place.local_rank} of its machine, counted from 0, but torch sees {found} "
            "CUDA devices there: start as many processes as there are devices; with SLURM ask for them by "
            "--gpus-per-node, as --gpus-per-task shows each process one; to train on CPUs set CUDA_VISIBLE_DEVICES="
        )


def _initialize(place: RankInfo) -> None:
    # ignite goes by SLURM's numbers in a job of SLURM, also where torchrun has given others.
    job = os.environ.pop("SLURM_JOB_ID", None) if place.by_torchrun else None
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if place.by_torchrun and restarts:
        # Torchrun keeps its meeting point, where they would find the addresses of those that have died.
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + restarts)
    try:
        with _default_signals():
            idist.initialize("gloo", timeout=TIMEOUT)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise RankLost(f"rank {place.rank} of {place.world} has not met the others: {reason:.500}") from error
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job


@contextlib.contextmanager
def _default_signals() -> Iterator[None]:
    """Let a signal end the process: python's handlers would not run before all ranks are there."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _words() -> dist.Store:
    """Return where a rank leaves its last words: beside what the group itself keeps at its meeting point."""
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=60),
    )
    return dist.PrefixStore("aimnet2mult/words", store)


def _is_of_connection(error: BaseException) -> bool:
    # gloo's errors are no class of their own; its messages have the path of its source in them.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
