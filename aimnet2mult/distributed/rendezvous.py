"""Bring the ranks together before they form a process group, in steps that a signal can end."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent import futures
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from aimnet2mult.distributed.rank_info import RankInfo
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.errors import RankLost
from telemetry.errors import error_text

__all__ = ["NOTICE", "TIMEOUT", "Wait", "are_all_here", "assemble", "dismiss", "find_obstacle", "open_store"]

TIMEOUT = timedelta(minutes=10)
"""Maximum wait for other ranks, when joining and in each collective; reading the data must take less time."""
NOTICE = 30.0
"""Seconds after which a wait for other ranks is announced."""
MAX_NAMED = 8
"""Maximum number of missing ranks that are named."""
DISMISSAL_TIMEOUT = timedelta(minutes=1)
"""Maximum wait of a failed rank 0 for the others, which have begun at about the same time."""
STORE_TIMEOUT = timedelta(minutes=1)
"""Maximum duration of an operation on the store."""
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two looks at what other ranks have done; doubled each time."""
CONNECT_TIMEOUT = 5.0
"""Maximum duration of a trial connection, in seconds."""


def open_store(
    info: RankInfo,
    stop: StopSignal,
    *,
    say: Callable[[str], None],
    timeout: timedelta = TIMEOUT,
    notice: float = NOTICE,
) -> Any:
    """Open the store through which the ranks meet; rank 0 serves it, unless torchrun does.

    Rank 0 opens it before anything that may take long: the other ranks wait as long as it is there.

    Raises:
        RankLost: rank 0 cannot be reached within ``timeout`` or before a stop is requested, or its port is in use.
    """
    if info.rank == 0 and not info.by_agent:
        try:
            store = _tcp_store(info, "127.0.0.1", is_master=True)
        except RuntimeError as error:
            raise RankLost(
                f"rank 0 cannot use port {info.port} of its machine, on which the ranks meet: is another training of "
                "this job running? MASTER_PORT selects another port"
            ) from error
        store.set("served", "")
        return store
    wait = Wait(info, stop, say, timeout=timeout, notice=notice)
    while obstacle := find_obstacle(info.host, info.port):
        wait.pause(_place(info, obstacle))
    return _connect(info, wait)


def _connect(info: RankInfo, wait: "Wait") -> Any:
    """Connect to the store of rank 0, and check that it is the one of this job.

    torch waits without a limit for a server that does not answer, and no signal ends this; hence the thread.
    """
    connection: futures.Future[Any] = futures.Future()
    threading.Thread(target=_open_into, args=(connection, info), daemon=True).start()
    while not futures.wait([connection], LONGEST_PAUSE).done:
        wait.pause(_place(info, "the server does not answer; another program may use the port"))
    try:
        store = connection.result()
        while not info.by_agent and not store.check(["served"]):
            wait.pause(_place(info, "another training uses the port"))
    except RankLost:
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        place = _place(info, "another program may use the port")
        raise RankLost(f"rank {info.rank} of {info.world_size} cannot connect to {place}: {reason:.200}") from error
    return store


def _open_into(connection: futures.Future[Any], info: RankInfo) -> None:
    try:
        connection.set_result(_tcp_store(info, info.host, is_master=False))
    except RuntimeError as error:
        connection.set_exception(error)


def _place(info: RankInfo, obstacle: str) -> str:
    return f"rank 0 at {info.host}:{info.port} ({obstacle})"


def assemble(
    store: Any,
    info: RankInfo,
    stop: StopSignal,
    *,
    say: Callable[[str], None],
    timeout: timedelta = TIMEOUT,
    notice: float = NOTICE,
) -> None:
    """Wait until all ranks have come to the store.

    A single decision, by rank 0 to start or by any rank to end, is valid for all. Otherwise some ranks might begin
    while another one leaves.

    Raises:
        RankLost: some have not come within ``timeout`` after rank 0, or a stop of some rank was requested before.
    """
    # Rank 0 may check data for hours: the other ranks wait in silence, as long as it lives.
    wait = Wait(info, stop, _say_nothing if info.rank else say, timeout=None if info.rank else timeout, notice=notice)
    ended: RankLost | None = None
    try:
        store.set(f"joined/{info.rank}", "")
        try:
            while not store.check(["decision"]) and (info.rank or not are_all_here(store, info)):
                wait.pause(_absent(store, info))
        except RankLost as error:
            ended = error
        decision = store.compare_set("decision", "", "start" if ended is None else "end")
    except RuntimeError as error:
        ended = RankLost(f"rank 0 has ended: {error_text(error):.200}")
        decision = b"end"
    if decision != b"start":
        ended = ended or RankLost("another rank was stopped before all ranks had come together")
        # Rank 0 reports what has happened.
        ended.reported = bool(info.rank)
        raise ended


def dismiss(store: Any, info: RankInfo, stop: StopSignal, *, timeout: timedelta = DISMISSAL_TIMEOUT) -> None:
    """Let the other ranks end, because this one has failed; do nothing if they have all come together before.

    The store ends with rank 0. Other ranks that are not there yet would then wait for it, so it waits for them.
    """
    wait = Wait(info, stop, _say_nothing, timeout=timeout, notice=NOTICE)
    with contextlib.suppress(RuntimeError):
        if store.compare_set("decision", "", "end") != b"end" or info.rank or info.by_agent:
            return
        while not are_all_here(store, info):
            wait.pause("the other ranks")


def are_all_here(store: Any, info: RankInfo) -> bool:
    """Return whether all ranks but rank 0 have come to the store."""
    return bool(store.check([f"joined/{rank}" for rank in range(1, info.world_size)]))


def _absent(store: Any, info: RankInfo) -> str:
    """Return which ranks have not come to the store."""
    if info.rank:
        return "the other ranks"
    ranks = [rank for rank in range(1, info.world_size) if not store.check([f"joined/{rank}"])]
    named = ", ".join(map(str, ranks[:MAX_NAMED]))
    return f"rank{'s' if len(ranks) > 1 else ''} {named}{' …' if len(ranks) > MAX_NAMED else ''}"


class Wait:
    """A wait for other ranks, which is announced if it takes long.

    Args:
        info: the rank of this process.
        stop: the stop signal of this rank.
        say: function that prints a line.
        timeout: when to give up; None to wait as long as it takes.
        notice: seconds after which the wait is announced.
    """

    def __init__(
        self, info: RankInfo, stop: StopSignal, say: Callable[[str], None], *, timeout: timedelta | None, notice: float
    ) -> None:
        self._name = f"rank {info.rank} of {info.world_size}"
        self._stop = stop
        self._say = say
        self._timeout = None if timeout is None else timeout.total_seconds()
        self._notice = notice
        self._announced = False
        self._pause = FIRST_PAUSE
        self._began = time.monotonic()

    def pause(self, what: str) -> None:
        """Wait a moment for ``what``.

        Raises:
            RankLost: it has taken too long, or a stop has been requested.
        """
        waited = time.monotonic() - self._began
        if self._stop.requested:
            raise RankLost(f"{self._name} was stopped by {self._stop.name} while waiting for {what}")
        if self._timeout is not None and waited > self._timeout:
            raise RankLost(f"{self._name} has waited {_minutes(self._timeout)} for {what}")
        if waited > self._notice and not self._announced:
            limit = "" if self._timeout is None else f"; up to {_minutes(self._timeout)}"
            self._say(f"{self._name} is waiting for {what}{limit}")
            self._announced = True
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def _tcp_store(info: RankInfo, host: str, *, is_master: bool) -> Any:
    store = dist.TCPStore(  # type: ignore[attr-defined] # not declared as exported
        host, info.port, is_master=is_master, wait_for_workers=False, timeout=STORE_TIMEOUT
    )
    # Ranks of another training must not be taken for ranks of this one.
    return dist.PrefixStore(f"aimnet2mult/{info.job}", store)  # type: ignore[attr-defined] # likewise


def find_obstacle(host: str, port: int) -> str:
    """Return why a server cannot be reached, or "" if it can."""
    try:
        with contextlib.closing(socket.create_connection((host, port), CONNECT_TIMEOUT)):
            return ""
    except (socket.gaierror, UnicodeError):
        return f"the name {host} does not resolve; set MASTER_ADDR to an address of that machine"
    except OSError as error:
        return error.strerror or str(error)


def _say_nothing(_: str) -> None:
    """Print nothing."""


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"  # noqa: PLR2004 - a minute
