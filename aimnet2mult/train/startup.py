"""The start of a training: signals before there is anything to save, the ranks' store, import of torch and aimnet."""

import contextlib
import gc
import logging
from collections.abc import Iterator
from typing import Any

from aimnet2mult.distributed.rank_info import RankInfo
from aimnet2mult.distributed.stop_signal import Stopped, StopSignal
from aimnet2mult.errors import RankLost
from aimnet2mult.train.plan import echo

__all__ = ["EXIT_RANK_LOST", "dismissing_others", "load_libraries", "open_store", "say", "stopping_at_once"]

EXIT_RANK_LOST = 1
"""Exit code of a rank that has lost another one, or has not met it."""


def load_libraries() -> None:
    """Import torch and aimnet; keep ignite from logging each run of an engine, and errors, which propagate anyway."""
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    with _no_garbage_collection():
        import aimnet2mult.distributed.process_group
        import aimnet2mult.train.loop  # noqa: F401 - imports all other libraries


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Import without garbage collection in the block.

    The imports create two million permanent objects. Traversing these repeatedly takes longer than the imports
    themselves, and at exit it takes seconds that a preempted run does not have.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()


def open_store(info: RankInfo, stop: StopSignal) -> Any:
    """Open the store through which several ranks meet; return None for a single process.

    Raises:
        RankLost: see `aimnet2mult.distributed.rendezvous`.
        Stopped: a signal ends the process.
    """
    if info.world_size == 1:
        return None
    with stopping_at_once(stop, info), _no_garbage_collection():
        from aimnet2mult.distributed import rendezvous

        return rendezvous.open_store(info, stop, say=say)


@contextlib.contextmanager
def dismissing_others(store: Any, info: RankInfo, stop: StopSignal) -> Iterator[None]:
    """Let the other ranks end as well after an error in the block, even if they have not come yet.

    The error is raised once they have come, since the store through which they learn of it ends with this process.
    """
    try:
        yield
    except Exception as error:
        # A lost rank may never come.
        if store is not None and not isinstance(error, RankLost):
            from aimnet2mult.distributed import rendezvous

            rendezvous.dismiss(store, info, stop)
        raise


@contextlib.contextmanager
def stopping_at_once(stop: StopSignal, info: RankInfo, store: Any = None) -> Iterator[None]:
    """Let a signal end the process in the block; as a preemption only if all ranks are there.

    Otherwise, the job of a rank that cannot start would be requeued forever: SLURM sends SIGTERM to the other ranks,
    and reports the highest exit code.

    Raises:
        Stopped: a signal ends the process.
    """
    try:
        with stop.stopping_at_once():
            yield
    except Stopped:
        if info.world_size > 1 and not _are_all_here(store, info):
            raise Stopped(EXIT_RANK_LOST) from None
        raise


def _are_all_here(store: Any, info: RankInfo) -> bool:
    if store is None:
        return False
    from aimnet2mult.distributed.rendezvous import are_all_here

    return are_all_here(store, info)


def say(line: str) -> None:
    """Print a line on stderr."""
    echo(line, err=True)
