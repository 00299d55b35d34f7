"""Fault injection into a process under test. A ``sitecustomize`` on its path calls ``arm`` before anything else.

The environment variable ``CHAOS`` holds the plan as JSON; see ``Faults``. The product contains none of this: ``os``,
``time`` and pluggy are wrapped, and a process started without ``CHAOS`` is unaffected.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import importlib
import json
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

TRAINER, DELIVERY = "trainer", "delivery"
POINTS = {
    "write": "journal-*.jsonl",
    "sync": "journal-*.jsonl",
    "rotate": "journal-*.jsonl",
    "lease": "*.lease-*",
    "beat": "alive.json",
    "cursor": "sinks/*.json",
    "backend": ["rows", "events.out.tfevents.*"],
    "disk": ["journal-*.jsonl", "alive.json"],
    "hook": "",
}
"""The fault points, and patterns of the files to whose calls they apply."""
OFFERED, PUBLISHED, AT_SYNC, SAFE = range(4)
"""The counters: points offered, published (``publish`` returned), published at the last sync; see ``Counters``."""


class Counters:
    """Counters in a file, which survive the process.

    ``SAFE`` is the number of points that had been published when the writer started its last completed write: these
    must be in the journal, whatever happens.
    """

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 64)

    def __getitem__(self, index: int) -> int:
        return int(struct.unpack_from("q", self._map, 8 * index)[0])

    def __setitem__(self, index: int, value: int) -> None:
        struct.pack_into("q", self._map, 8 * index, value)


class Faults:
    """Which fault happens at which call.

    Args:
        plan: a dict with these keys:
            ``folder``: for the state of the faults;
            ``faults``: a list of dicts with ``role``, ``point``, ``when`` (before, torn, after), ``nth`` call, ``do``
            (kill, job, hang, slow, or the name of an errno), ``times``, ``seconds`` (for slow), and ``flag``: the fault
            happens at every call while this file exists;
            ``sync``: seconds that an fdatasync takes;
            ``clock``: seconds by which the clock jumps back and forth;
            ``set``: module attributes to replace;
            ``host``: the machine to simulate;
            ``still``: seconds after which a stale heartbeat or lease counts as dead.
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        self.role = DELIVERY if "telemetry.worker" in sys.orig_argv else TRAINER
        self._folder = Path(plan["folder"])
        self._plan = plan
        self._mine = [dict(f, seen=0) for f in plan.get("faults", []) if f["role"] == self.role]
        self._names: dict[int, str] = {}
        self._counters = Counters(plan["counters"]) if "counters" in plan and self.role == TRAINER else None
        self._real = {name: getattr(os, name) for name in ("open", "write", "fdatasync", "fsync", "replace", "link")}
        self._sink = ""

    def at(self, point: str, when: str, name: str = "") -> dict[str, Any] | None:
        """Reach a fault point; return the fault if the caller has to carry it out."""
        if name and not _matches(POINTS[point], name):
            return None
        for fault in self._mine:
            if (fault["point"], fault["when"]) == (point, when) and self._holds(fault):
                return self._happen(fault)
        return None

    def _holds(self, fault: dict[str, Any]) -> bool:
        if "flag" in fault:
            return Path(fault["flag"]).exists()
        if "armed" in fault and not Path(fault["armed"]).exists():
            return False
        fault["seen"] += 1
        return bool(fault["seen"] == fault["nth"]) and self._take_token(fault)

    def _take_token(self, fault: dict[str, Any]) -> bool:
        """Limit how often a fault happens in all processes together, not in each new one."""
        for number in range(fault.get("times", 1)):
            path = self._folder / f"token-{self._plan['faults'].index(_plain(fault))}-{number}"
            with contextlib.suppress(FileExistsError):
                os.close(self._real["open"](path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return True
        return False

    def _happen(self, fault: dict[str, Any]) -> dict[str, Any] | None:
        do = fault["do"]
        if fault["when"] == "torn":
            return fault
        if do in {"kill", "job"}:
            self.kill(fault)
        if do == "hang":
            while Path(fault["flag"]).exists():
                _sleep(0.02)
            return None
        if do == "slow":
            _sleep(fault["seconds"])
            return None
        number = getattr(errno, do)
        raise OSError(number, os.strerror(number))

    def kill(self, fault: dict[str, Any]) -> None:
        """Kill this process, or the whole job, with SIGKILL."""
        line = f"{self.role} {fault['point']} {fault['when']} {fault['do']} {self._sink}\n"
        fd = self._real["open"](self._folder / "kills", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._real["write"](fd, line.encode())
        others = job_of(int(os.environ["CHAOS_TRAINER"])) if fault["do"] == "job" else []
        for pid in [*others, os.getpid()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # Replacements of the functions of ``os``.

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        name = _name(path)
        self._learn(name)
        point = "lease" if ".lease-" in name else "rotate"
        new = bool(flags & os.O_EXCL)
        if new:
            self.at(point, "before", name)
        if flags & (os.O_WRONLY | os.O_RDWR):
            self.at("backend", "before", name)
        fd = int(self._real["open"](path, flags, mode, **more))
        self._names[fd] = name
        if new:
            self.at(point, "after", name)
        return fd

    def write(self, fd: int, data: Any) -> int:
        name = self._names.get(fd, "-")
        point = "write" if _matches(POINTS["write"], name) else "backend"
        self.at("disk", "before", name)
        self.at(point, "before", name)
        torn = self.at(point, "torn", name)
        done = int(self._real["write"](fd, bytes(data)[: len(data) // 2] if torn else data))
        if torn:
            self.kill(torn)
        if point == "write" and self._counters:
            self._counters[SAFE] = self._counters[AT_SYNC]
        self.at(point, "after", name)
        return done

    def fdatasync(self, fd: int) -> None:
        name = self._names.get(fd, "-")
        self.at("sync", "before", name)
        # A kill does not affect the page cache, so only the duration of a sync matters.
        _sleep(self._plan.get("sync", 0.0))
        if self._counters:
            self._counters[AT_SYNC] = self._counters[PUBLISHED]
        self.at("sync", "after", name)

    def fsync(self, fd: int) -> None:
        self.at("backend", "sync", self._names.get(fd, "-"))

    def replace(self, source: Any, target: Any, **more: Any) -> None:
        name = _name(target)
        self._learn(name)
        point = "beat" if name == "alive.json" else "cursor"
        self.at(point, "before", name)
        self._real["replace"](source, target, **more)
        self.at(point, "after", name)

    def link(self, source: Any, target: Any, **more: Any) -> None:
        self.at("lease", "before", _name(target))
        self._real["link"](source, target, **more)
        self.at("lease", "after", _name(target))

    def _learn(self, name: str) -> None:
        if name.startswith("sinks/"):
            self._sink = name.removeprefix("sinks/").removeprefix(".").partition(".")[0]

    def patch(self) -> None:
        """Install the replacements."""
        for name in self._real:
            setattr(os, name, getattr(self, name))
        for name, value in self._plan.get("set", {}).items():
            module_name, _, attribute = name.rpartition(".")
            module = importlib.import_module(module_name)
            if isinstance(value, dict):
                _replace(module, attribute, **value)
            else:
                setattr(module, attribute, value)
        # With idle priority, deliveries would hardly ever run on a busy machine.
        os.sched_setscheduler = lambda *_: None
        if still := self._plan.get("still"):
            _shorten(still)
        if jump := self._plan.get("clock"):
            _jump(jump)
        if host := self._plan.get("host"):
            _move_to(host)
        _watch_hooks(self)


def arm() -> None:
    """Arm the faults of this process, if there are any."""
    if plan := os.environ.get("CHAOS"):
        faults = Faults(json.loads(plan))
        if faults.role == TRAINER:
            os.environ["CHAOS_TRAINER"] = str(os.getpid())
        faults.patch()


def job_of(trainer: int) -> list[int]:
    """Return a trainer and its descendants; nothing if it has died."""
    if os.getpid() != trainer and os.getppid() != trainer:
        # This process is an orphan: the trainer is dead, and its ID may have been reused.
        return []
    return list(_tree(trainer))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield from _tree(int(child))


def _plain(fault: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fault.items() if key != "seen"}


def _name(path: Any) -> str:
    """Return the last part of a path, with its folder if that is ``sinks``."""
    parts = os.fspath(path).rsplit("/", 2)
    return "/".join(parts[-2:]) if len(parts) > 1 and parts[-2] == "sinks" else parts[-1]


def _matches(patterns: str | Sequence[str], name: str) -> bool:
    given = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in given)


_sleep = time.sleep


def _jump(seconds: float) -> None:
    real, real_ns = time.time, time.time_ns

    def offset() -> float:
        return seconds if int(time.monotonic() * 8) % 2 else 0.0

    time.time = lambda: real() + offset()
    time.time_ns = lambda: real_ns() + int(offset() * 1e9)


def _shorten(still: float) -> None:
    """Set the seconds after which a stale heartbeat or lease counts as dead."""
    names = ("run_folder.heartbeat", "run_folder.lease", "delivery.lease_renewer", "recording.open_run")
    modules: list[Any] = [importlib.import_module(f"telemetry.{name}") for name in names]
    heartbeat, lease, renewer, opening = modules
    heartbeat.TrainerLivenessProbe.__init__.__kwdefaults__["timeout"] = still
    lease.HEARTBEAT_TIMEOUT = still
    renewer.LeaseRenewer.__init__.__kwdefaults__["interval"] = still / 10
    _replace(opening, "DEFAULT_LIMITS", heartbeat_interval=still / 10)


def _replace(module: ModuleType, attribute: str, **fields: Any) -> None:
    """Replace some fields of a struct that is an attribute of a module."""
    import msgspec

    setattr(module, attribute, msgspec.structs.replace(getattr(module, attribute), **fields))


def _move_to(host: str) -> None:
    identity = importlib.import_module("telemetry.run_folder.process_identity")
    identity._kernel = lambda: f"{host}/1"  # type: ignore[attr-defined]


def _watch_hooks(faults: Faults) -> None:
    import pluggy

    call: Callable[..., Any] = pluggy.HookCaller.__call__

    def watched(caller: Any, **arguments: Any) -> Any:
        faults.at("hook", "before")
        answer = call(caller, **arguments)
        faults.at("hook", "after")
        return answer

    pluggy.HookCaller.__call__ = watched  # type: ignore[method-assign, assignment]
