"""A sink that is tried again after failures, as delivery does, so that the contract can be held to one that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from telemetry import RunRecord, Status
from telemetry.plugins.registry import Hooks, Sink
from telemetry.sink_api import Opened, Record, SinkUnavailable, hookimpl

T = TypeVar("T")


class TriedAgain:
    """A sink of which a new instance is opened after each failure, and given what follows.

    Args:
        make: gives a new instance.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        self._run, self._folder = run, folder
        return persist(self._open)

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int | None:
        return self._persist(lambda: self._hooks.sink_write(records=[r for r in records if r.seq > self._held]))

    @hookimpl
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        self._persist(lambda: self._hooks.sink_close(status=status, time=time, reason=reason))

    def _persist(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except SinkUnavailable:
            return persist(lambda: (self._open(), call())[1])

    def _open(self) -> Opened:
        hooks: Hooks = Sink("tried again", {}, None, self._make()).create()
        found = hooks.sink_open(run=self._run, folder=self._folder)
        self._hooks, self._held = hooks, found.last_seq or 0
        return found


def persist(call: Callable[[], T], tries: int = 50) -> T:
    """Try again and again; what fails for ever is unavailable."""
    for _ in range(tries):
        with contextlib.suppress(SinkUnavailable):
            return call()
    return call()
