"""Where a W&B run is kept, in files or on a server: what is there before a delivery, and what has come to be there."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from sinks._paths import command
from sinks.wandb.offline_files import Held, Segment, segments
from sinks.wandb.server import ask
from telemetry.sink_api import SinkRejected, SinkUnavailable, Status, private_opener

EXIT_CODES: dict[str, int] = {"finished": 0, "failed": 1, "preempted": 143, "killed": 137}
"""W&B knows finished (0) and failed (all others), and takes a failed run that was marked so for preempted."""

_CLOSED = 20.0
"""Seconds in which a run that was finished has to be seen where it is kept."""


class Place(Protocol):
    """Where the rows of one run go."""

    mode: Literal["online", "offline"]
    destination: str
    view: str

    def look(self) -> Held:
        """Find out what is there, before anything is written."""

    def begin(self, folder: Path) -> None:
        """Take note that wandb has opened the run, and keeps its local files in ``folder``."""

    def foresee(self, next_step: int, attempt: int) -> None:
        """Take note that the next rows are numbered up to ``next_step``, and are of this attempt."""

    def confirmed(self, accepted: int) -> int | None:
        """Give the highest number that is known to be there and to stay, None if that is not known now."""

    def await_end(self, accepted: int, status: Status) -> None:
        """Wait until all that was accepted is there, and the run is finished there."""


class Files(Place):
    """Segments below a folder, for ``wandb sync``."""

    mode: Literal["online", "offline"] = "offline"

    def __init__(self, folder: Path, run_id: str) -> None:
        self._folder = folder / "wandb"
        self._run_id = run_id
        self._rows = folder / f".{run_id}.rows"
        self._before: int | None = None
        self._live: Segment | None = None
        self.destination = f"{self._folder}, run {run_id}"
        self.view = f"{command('wandb')} sync {shlex.quote(str(self._folder))}/offline-run-*-{run_id}*"

    def look(self) -> Held:
        """Read all segments, and seal those that somebody may still write to; raises OSError."""
        # Without wandb's folder nothing was ever there. With it, `wandb clean` may have removed what was synced.
        held = Held(last_seq=None if self._folder.is_dir() else 0)
        held.next_step, held.attempt = self._foreseen()
        for segment in segments(self._folder, self._run_id):
            found = segment.read()
            if not segment.is_sealed:
                segment.seal()
            held = _joined(held, found)
        self._before = held.last_seq
        return held

    def begin(self, folder: Path) -> None:
        """Follow the new segment."""
        self._live = Segment(folder / f"run-{self._run_id}.wandb")

    def foresee(self, next_step: int, attempt: int) -> None:
        """Write it down, for when `wandb clean` has removed the rows before; raises OSError."""
        partial = self._rows.with_name(self._rows.name + ".partial")
        with open(partial, "w", encoding="utf-8", opener=private_opener) as file:
            file.write(f"{next_step} {attempt}\n")
        partial.replace(self._rows)

    def _foreseen(self) -> tuple[int, int]:
        try:
            next_step, attempt = map(int, self._rows.read_text(encoding="utf-8").split())
        except (FileNotFoundError, ValueError):
            return 0, 1
        return next_step, attempt

    def confirmed(self, accepted: int) -> int | None:  # noqa: ARG002 - the file itself tells
        """Read what has come to the file of the run that is open, and sync it; raises SinkUnavailable and OSError."""
        live = self._live
        assert live is not None  # noqa: S101 - begin comes first
        if live.seal_what_was_synced():
            msg = f"wandb: {live.path} was synced and takes no more; what follows goes into another file"
            raise SinkUnavailable(msg)
        before = live.end
        last_seq = live.read().last_seq
        if live.end > before:
            live.sync()
        return self._before if last_seq is None else last_seq

    def await_end(self, accepted: int, status: Status) -> None:
        """Wait for the file to be written out; raises SinkUnavailable if something in it is missing then."""
        _wait_for(lambda: self._is_closed(accepted, status), "wandb has finished the run, and not written all of it")

    def _is_closed(self, accepted: int, status: Status) -> bool:
        last_seq = self.confirmed(accepted) or 0
        assert self._live is not None  # noqa: S101 - begin comes first
        return last_seq >= accepted and self._live.held.status == status


class Server(Place):
    """A run on a W&B server.

    Args:
        base_url: the server's API.
        app_url: its pages.
        project, entity: whose run it is; the entity is the key's own by default.
        run_id: the run's id there.
        clock: a monotonic clock in seconds.
    """

    mode: Literal["online", "offline"] = "online"
    every = 30.0
    """Seconds between two questions to the server of what it holds."""

    def __init__(
        self,
        base_url: str,
        app_url: str,
        *,
        project: str,
        entity: str | None,
        run_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_url, self._app_url = base_url, app_url
        self._project, self._entity, self._run_id = project, entity, run_id
        self._clock = clock
        self._asked = clock()
        self._held = 0
        self._waiting = 0
        self.destination = self.view = ""

    def look(self) -> Held:
        """Ask the server; raises SinkRejected and SinkUnavailable."""
        answer = ask(self._base_url, project=self._project, entity=self._entity, run_id=self._run_id)
        path = f"{answer.entity}/{self._project}"
        self.destination = f"{self._base_url}, {path}, run {self._run_id}"
        self.view = f"{self._app_url}/{path}/runs/{self._run_id}"
        self._held = answer.held.last_seq or 0
        self._asked = self._clock()
        return answer.held

    def begin(self, folder: Path) -> None:
        """Leave the local files to wandb: the server is asked."""

    def foresee(self, next_step: int, attempt: int) -> None:
        """Leave that to the server, which keeps all rows."""

    def confirmed(self, accepted: int) -> int | None:
        """Ask the server now and then; raises SinkUnavailable when uploads stand still, or the key is refused."""
        if self._clock() - self._asked < self.every:
            return self._held or None
        before, waiting = self._held, self._waiting
        try:
            self.look()
        except SinkRejected as error:
            # It is no single record that is refused. What the next opening meets decides.
            raise SinkUnavailable(str(error)) from error
        except SinkUnavailable:
            # wandb-core tries again by itself.
            self._asked, self._waiting = self._clock(), 0
            return before or None
        if waiting > before == self._held:
            msg = f"wandb: nothing has come to {self._base_url} for {self.every:.0f} s, although it answers"
            raise SinkUnavailable(msg)
        self._waiting = accepted
        return self._held or None

    def await_end(self, accepted: int, status: Status) -> None:  # noqa: ARG002 - rows are what may be missing
        """Ask the server until it has all; raises SinkUnavailable if it has not in time."""
        try:
            _wait_for(
                lambda: (self.look().last_seq or 0) >= accepted,
                f"wandb has finished the run, and {self._base_url} does not have all of it",
            )
        except SinkRejected as error:
            raise SinkUnavailable(str(error)) from error


def _joined(first: Held, then: Held) -> Held:
    """Give what is held together by a segment and those before it."""
    last_alert = max(first.last_alert, then.last_alert)
    if then.last_seq is None:
        return replace(first, status=then.status, last_alert=last_alert)
    last_seq, next_step = max(first.last_seq or 0, then.last_seq), max(first.next_step, then.next_step)
    return replace(then, last_seq=last_seq, next_step=next_step, last_alert=last_alert)


def _wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _CLOSED
    pause = 0.01
    while not condition():
        if time.monotonic() > deadline:
            msg = f"wandb: {otherwise}"
            raise SinkUnavailable(msg)
        time.sleep(pause)
        pause = min(1.0, pause * 2)
