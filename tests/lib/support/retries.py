"""A sink that retries after failures as delivery does, so that the contract can be checked on a failing backend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import TypeVar

from telemetry import RunRecord, Status
from telemetry.plugins.hook_relay import Hooks
from telemetry.plugins.registry import Sink
from telemetry.sink_api import Opened, Record, RunUpdate, SinkUnavailable, hookimpl, updated

T = TypeVar("T")


class RetryingSink:
    """A sink that opens a new instance of another one after each failure, and writes the missing records to it.

    Args:
        make: function that returns a new instance.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        self._run, self._folder = run, folder
        return retry(self._open)

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int | None:
        # A new instance gets the description in the journal.
        self._run = reduce(updated, (r for r in records if isinstance(r, RunUpdate)), self._run)
        return self._retry(lambda: self._hooks.sink_write(records=[r for r in records if r.seq > self._last_seq]))

    @hookimpl
    def sink_close(self, status: Status, time: int, reason: str) -> None:
        self._retry(lambda: self._hooks.sink_close(status=status, time=time, reason=reason))

    def _retry(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except SinkUnavailable:
            return retry(lambda: (self._open(), call())[1])

    def _open(self) -> Opened:
        hooks: Hooks = Sink("retrying", {}, None, self._make()).create()
        found = hooks.sink_open(run=self._run, folder=self._folder)
        self._hooks, self._last_seq = hooks, found.last_seq or 0
        return found


def retry(call: Callable[[], T], attempts: int = 50) -> T:
    """Return the result of a call, repeating it while it raises SinkUnavailable; the last attempt may raise it."""
    for _ in range(attempts):
        with contextlib.suppress(SinkUnavailable):
            return call()
    return call()
