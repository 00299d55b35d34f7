"""Communication between ranks through torch's process groups; no other module communicates."""

import contextlib
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.messages import decode, encode
from aimnet2mult.distributed.rank_info import RankInfo
from aimnet2mult.distributed.rendezvous import NOTICE, TIMEOUT, assemble, dismiss, open_store
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.errors import ConfigError, RankLost
from telemetry.errors import error_text, format_error

__all__ = [
    "ProcessGroupCommunicator",
    "check_device_types",
    "describe_lost_connection",
    "process_group",
]

T = TypeVar("T")

ERROR_WAIT = 2.0
"""Maximum wait, in seconds, for the error messages of other ranks after the connection is lost."""
ERROR_POLL_INTERVAL = 0.05
"""Seconds between checks for the error messages of other ranks."""
READERS_WAIT = timedelta(seconds=5)
"""Maximum wait of a failed rank 0 for the other ranks to read the error messages, which end with it."""
FINISHED: deque[Any] = deque(maxlen=8)
"""The newest operations of Gloo, one of whose threads holds each for a moment after its end.

If that thread were the last to release one, it would need the interpreter for the tensors, and abort the process if the
interpreter is ending.
"""


@contextlib.contextmanager
def process_group(
    info: RankInfo,
    stop: StopSignal,
    *,
    say: Callable[[str], None],
    store: Any = None,
    timeout: timedelta = TIMEOUT,
    notice: float = NOTICE,
) -> Iterator[Communicator]:
    """Join the job's process group, and leave it once all ranks have finished.

    Args:
        info: the rank of this process.
        stop: the stop signal of this rank, which ends the wait for the others.
        say: function that prints a line; called if the others do not come soon.
        store: the result of `open_store`, if it has been called.
        timeout: maximum wait for rank 0 to be reachable, for the others once rank 0 is ready, and in each collective.
        notice: seconds after which a wait is announced.

    Raises:
        RankLost: the ranks could not connect to each other, another rank failed, this one has no CUDA device, or a stop
            was requested before the ranks had met.
    """
    if info.world_size == 1:
        yield Communicator()
        return
    if store is None:
        store = open_store(info, stop, say=say, timeout=timeout, notice=notice)
    try:
        _check_device_count(info)
    except RankLost:
        dismiss(store, info, stop)
        raise
    assemble(store, info, stop, say=say, timeout=timeout, notice=notice)
    communicator = ProcessGroupCommunicator(info, store, timeout)
    failed = False
    try:
        yield communicator
        communicator.all_reduce_max([0])
    except BaseException as error:
        failed = True
        lost = communicator.exchange_errors(error)
        if lost is None:
            raise
        raise lost from error
    finally:
        if failed:
            # They keep the connections open, by whose end the other ranks notice the failure at once.
            FINISHED.clear()
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        if failed and not info.rank and not info.by_agent:
            communicator.wait_for_readers()


class ProcessGroupCommunicator(Communicator):
    """Collective operations through Gloo for values on the CPU, and through NCCL for CUDA tensors.

    Gloo is the default group even on GPUs, so that ranks can agree, and notice a dead rank, without waiting for a
    device.
    """

    def __init__(self, info: RankInfo, store: Any, timeout: timedelta = TIMEOUT) -> None:
        self.rank = info.rank
        self.world_size = info.world_size
        self._timeout = timeout
        self._device: torch.device | None = None
        self._device_group: dist.ProcessGroup | None = None
        self._has_averaged = False
        # A failing rank leaves its error message here.
        self._error_store = dist.PrefixStore("errors", store)  # type: ignore[attr-defined] # not declared as exported
        _initialize(info, store, timeout)

    def set_device(self, device: torch.device) -> None:
        """Set the device, and for CUDA create the NCCL group; see `Communicator.set_device`."""
        check_device_types(self._gather(device.type))
        self._device = device
        if device.type == "cuda":
            self._device_group = dist.new_group(backend="nccl", timeout=self._timeout)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap the model in DDP; see `Communicator.wrap`."""
        # The warning concerns gradients with a single row or column, whose strides are irrelevant.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        ids = None if self._device is None or self._device.index is None else [self._device.index]
        # The set of unused parameters (heads of labels that are not trained) is the same in every iteration, because
        # missing labels have gradients of 0.
        return DistributedDataParallel(model, device_ids=ids, process_group=self._device_group, static_graph=True)

    def without_averaging(self, wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
        """See `Communicator.without_averaging`."""
        if not self._has_averaged:
            # DDP with a static graph must see it in its first pass; averaging twice changes nothing but rounding.
            self._has_averaged = True
            return contextlib.nullcontext()
        return cast("DistributedDataParallel", wrapped).no_sync()

    def all_reduce_sum(self, tensor: Tensor) -> None:
        """See `Communicator.all_reduce_sum`."""
        if self._device_group is None:
            _finish(dist.all_reduce(tensor, async_op=True))
        else:
            dist.all_reduce(tensor, group=self._device_group)

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """See `Communicator.all_reduce_max`."""
        tensor = torch.tensor(values)
        _finish(dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True))
        maxima: list[int] = tensor.tolist()
        return maxima

    def broadcast(self, value: T) -> T:
        """See `Communicator.broadcast`."""
        content = encode(value) if self.rank == 0 else b""
        size = self.all_reduce_max([len(content)])[0]
        message = torch.frombuffer(bytearray(content.ljust(size, b"\0")), dtype=torch.uint8)
        _finish(dist.broadcast(message, src=0, async_op=True))
        if self.rank == 0:
            return value
        try:
            return decode(message.numpy().tobytes())  # type: ignore[return-value] # rank 0 has sent it
        except ValueError as error:
            raise RankLost(f"rank 0 has sent a message that cannot be read: {error}") from error

    def run_on_all(self, function: Callable[[], T]) -> T:
        """See `Communicator.run_on_all`."""
        error = result = None
        try:
            result = function()
        except Exception as caught:  # noqa: BLE001 - raised again once every rank has reported
            error = caught
        errors = self._gather("" if error is None else f"on {socket.gethostname()}: {format_error(error)}")
        if error is not None:
            raise error
        for rank, message in enumerate(errors):
            if message:
                raise RankLost(f"rank {rank} {message}", reported=True)
        return result  # type: ignore[return-value] # there was no error

    def exchange_errors(self, error: BaseException) -> RankLost | None:
        """Publish an error of this rank to the others, or return the error to raise if another rank caused it."""
        lost = None
        if not isinstance(error, RankLost):
            caused_here = not _is_connection_error(error)
            with contextlib.suppress(RuntimeError):
                self._error_store.set(str(self.rank), format_error(error) if caused_here else "")
            if not caused_here:
                lost = self._describe_loss(error)
        with contextlib.suppress(RuntimeError):
            self._error_store.set(f"left/{self.rank}", "")
        return lost

    def wait_for_readers(self) -> None:
        """Wait, for a few seconds, until the other ranks need the error messages no longer."""
        with contextlib.suppress(RuntimeError):
            self._error_store.wait([f"left/{rank}" for rank in range(1, self.world_size)], READERS_WAIT)

    def _describe_loss(self, error: BaseException) -> RankLost:
        """Return the error to raise after a lost connection."""
        messages = self._collect_errors()
        failed = [f"rank {rank} failed: {message}" for rank, message in messages.items() if message]
        if not failed:
            silent = [rank for rank in range(self.world_size) if rank not in messages]
            failed = [describe_lost_connection(silent, error)]
        return RankLost("; ".join(failed), reported=0 in messages)

    def _collect_errors(self) -> dict[int, str]:
        """Return the error message of each rank that has ended; "" if it only lost its connection."""
        deadline, messages = time.monotonic() + ERROR_WAIT, dict.fromkeys((self.rank,), "")
        with contextlib.suppress(RuntimeError):
            while True:
                ended = [rank for rank in range(self.world_size) if self._error_store.check([str(rank)])]
                messages |= {rank: self._error_store.get(str(rank)).decode(errors="replace") for rank in ended}
                if any(messages.values()) or len(messages) == self.world_size or time.monotonic() > deadline:
                    break
                # The store cannot wait for whichever rank reports first.
                time.sleep(ERROR_POLL_INTERVAL)
        return messages

    def _gather(self, text: str) -> list[str]:
        """Return the text of each rank."""
        content = text.encode(errors="replace")
        size = self.all_reduce_max([len(content)])[0] + 1
        message = torch.frombuffer(bytearray(content.ljust(size, b"\0")), dtype=torch.uint8)
        messages = [torch.empty_like(message) for _ in range(self.world_size)]
        _finish(dist.all_gather(messages, message, async_op=True))
        return [each.numpy().tobytes().rstrip(b"\0").decode(errors="replace") for each in messages]


def describe_lost_connection(silent: Sequence[int], error: BaseException) -> str:
    """Return the message of a connection error that no rank caused; ``silent`` ranks reported nothing."""
    reason = error_text(error)
    if not silent:
        return f"the ranks lost contact with each other, although none of them has failed: {reason:.200}"
    ranks = ", ".join(map(str, silent))
    if len(silent) == 1:
        return f"lost contact with rank {ranks}, which has died or is disconnected: {reason:.200}"
    return f"lost contact with ranks {ranks}, which have died or are disconnected: {reason:.200}"


def check_device_types(types: Sequence[str]) -> None:
    """Check that all ranks train on the same type of device; ``types`` has one entry per rank.

    Raises:
        ConfigError: they do not.
    """
    other = next((rank for rank, device_type in enumerate(types) if device_type != types[0]), None)
    if other is not None:
        raise ConfigError(
            f"rank 0 would train on {types[0]} and rank {other} on {types[other]}; "
            "set device=cpu, or leave out the machine without CUDA"
        )


def _check_device_count(info: RankInfo) -> None:
    found = torch.cuda.device_count()
    if 0 < found <= info.local_rank:
        devices = "1 CUDA device" if found == 1 else f"{found} CUDA devices"
        raise RankLost(
            f"rank {info.rank} has local rank {info.local_rank}, counted from 0, but torch sees only {devices} on its "
            "machine: start as many processes as there are devices; with SLURM, request them with "
            "--gpus-per-node, since --gpus-per-task shows a single one to each process; to train on CPUs, set "
            "CUDA_VISIBLE_DEVICES="
        )


def _finish(work: Any) -> None:
    """Wait for an operation of Gloo."""
    FINISHED.append(work)
    work.wait()


def _initialize(info: RankInfo, store: Any, timeout: timedelta) -> None:
    try:
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("group", store),  # type: ignore[attr-defined] # not declared as exported
            rank=info.rank,
            world_size=info.world_size,
            timeout=timeout,
        )
    except RuntimeError as error:
        reason = error_text(error)
        raise RankLost(f"rank {info.rank} of {info.world_size} could not join the others: {reason:.500}") from error
    if torch.cuda.is_available():
        torch.cuda.set_device(info.local_rank)


def _is_connection_error(error: BaseException) -> bool:
    # Gloo's errors have no separate class, but their messages contain the path of its source.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
