"""The two destinations of a W&B run, offline files and a server, which report the rows they have stored."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from sinks._paths import shell_command
from sinks.wandb.offline_files import TransactionLog, find_transaction_logs
from sinks.wandb.server import query_run
from sinks.wandb.stored_run import StoredRun
from sinks.wandb.timeouts import Timeouts
from sinks.wandb.user_settings import Mode
from telemetry.sink_api import (
    SinkRejected,
    SinkUnavailable,
    Status,
    atomic_write,
    private_opener,
    remove_temporary_files,
)


class Destination(Protocol):
    """Storage for the rows of one run.

    Call order: ``inspect`` first; ``run_opened`` after each ``wandb.init``; ``expect_rows`` before each batch of rows
    and ``confirmed_seq`` after it; ``wait_stored`` after ``run.finish``.

    Attributes:
        mode: the mode of ``wandb.init``.
        location: description of the destination and of the run in it; final after ``inspect``.
        view: the command or URL that shows the run; final after ``inspect``.
    """

    mode: Mode
    location: str
    view: str

    def inspect(self) -> StoredRun:
        """Return the stored part of the run, and stop processes left over from earlier deliveries from adding to it."""

    def run_opened(self, folder: Path) -> None:
        """Note that wandb has opened the run, with its local files in ``folder``."""

    def expect_rows(self, next_step: int, attempt: int) -> None:
        """Note that rows of this attempt, with steps below ``next_step``, will follow."""

    def confirmed_seq(self, accepted_seq: int) -> int | None:
        """Return the highest sequence number that is durably stored, or None if unknown.

        Args:
            accepted_seq: the highest sequence number passed to wandb, which may still have it in memory.

        Raises:
            SinkUnavailable: the destination accepts no further rows from this instance.
        """

    def wait_stored(self, accepted_seq: int, status: Status) -> None:
        """Wait until the rows up to ``accepted_seq`` and the end of the run are stored.

        Raises:
            SinkUnavailable: some of them are still missing after the timeout.
        """


class OfflineDestination(Destination):
    """Transaction logs below a folder, for ``wandb sync``.

    Args:
        folder: the parent of wandb's own folder.
        run_id: the ID of the W&B run.
        timeouts: the time limits, of which only ``stored`` is used.
    """

    mode: Mode = "offline"

    def __init__(self, folder: Path, run_id: str, timeouts: Timeouts) -> None:
        self._folder = folder / "wandb"
        self._run_id = run_id
        self._timeouts = timeouts
        self._expected_rows_path = folder / f".{run_id}.rows"
        self._last_seq_of_sealed_logs: int | None = None
        self._live_log: TransactionLog | None = None
        self.location = f"{self._folder}, run {run_id}"
        self.view = f"{shell_command('wandb')} sync {shlex.quote(str(self._folder))}/offline-run-*-{run_id}*"

    def inspect(self) -> StoredRun:
        """Read all logs of the run, and seal those to which a process may still write.

        Raises:
            OSError: a log cannot be read or sealed.
        """
        remove_temporary_files(self._expected_rows_path)
        # Without wandb's folder, nothing was ever stored. With it, `wandb clean` may have removed synced logs.
        stored = StoredRun(last_seq=None if self._folder.is_dir() else 0)
        stored.next_step, stored.attempt = self._read_expected_rows()
        for log in find_transaction_logs(self._folder, self._run_id):
            in_log = log.read()
            if not log.is_sealed:
                log.seal()
            stored = _combine(stored, in_log)
        self._last_seq_of_sealed_logs = stored.last_seq
        return stored

    def run_opened(self, folder: Path) -> None:
        """Follow the new log."""
        self._live_log = TransactionLog(folder / f"run-{self._run_id}.wandb")

    def expect_rows(self, next_step: int, attempt: int) -> None:
        """Save the numbers in case `wandb clean` removes the rows.

        Raises:
            OSError: the file cannot be written.
        """
        atomic_write(self._expected_rows_path, f"{next_step} {attempt}\n".encode())

    def _read_expected_rows(self) -> tuple[int, int]:
        try:
            with open(self._expected_rows_path, encoding="utf-8", opener=private_opener) as file:
                next_step, attempt = map(int, file.read().split())
        except (FileNotFoundError, ValueError):
            return 0, 1
        return next_step, attempt

    def confirmed_seq(self, accepted_seq: int) -> int | None:  # noqa: ARG002 - the log shows what is stored
        """Read the rows added to the live log, and sync it.

        Raises:
            SinkUnavailable: the log has been synced with the server, and accepts no further rows.
            OSError: the log cannot be read or synced.
        """
        log = self._live_log
        assert log is not None  # noqa: S101 - run_opened comes first
        if log.seal_if_synced():
            msg = f"wandb: {log.path} has been synced and accepts no further rows; new rows go to another file"
            raise SinkUnavailable(msg)
        end_before = log.end
        last_seq = log.read().last_seq
        if log.end > end_before:
            log.sync()
        return self._last_seq_of_sealed_logs if last_seq is None else last_seq

    def wait_stored(self, accepted_seq: int, status: Status) -> None:
        """Wait until the live log is complete.

        Raises:
            SinkUnavailable: it is still incomplete after the timeout.
        """
        _wait_for(
            lambda: self._is_complete(accepted_seq, status),
            self._timeouts.stored,
            "wandb has finished the run without writing all of its rows",
        )

    def _is_complete(self, accepted_seq: int, status: Status) -> bool:
        last_seq = self.confirmed_seq(accepted_seq) or 0
        assert self._live_log is not None  # noqa: S101 - run_opened comes first
        return last_seq >= accepted_seq and self._live_log.stored.status == status


class ServerDestination(Destination):
    """A run on a W&B server.

    Args:
        base_url: URL of the server's API.
        app_url: URL of its web pages.
        project: the project of the run.
        entity: the owner of the project; by default the owner of the API key.
        run_id: the ID of the W&B run.
        timeouts: the time limits, of which ``request``, ``query_interval`` and ``stored`` are used.
        owner: the part of the run's description that its configuration on the server must contain, if it has rows.
        clock: a monotonic clock in seconds.
    """

    mode: Mode = "online"

    def __init__(
        self,
        base_url: str,
        app_url: str,
        *,
        project: str,
        entity: str | None,
        run_id: str,
        timeouts: Timeouts,
        owner: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_url, self._app_url = base_url, app_url
        self._project, self._entity, self._run_id = project, entity, run_id
        self._timeouts = timeouts
        self._owner = owner or {}
        self._clock = clock
        self._queried_at = clock()
        self._stored_seq = 0
        self._pending_seq = 0
        self.location = self.view = ""

    def inspect(self) -> StoredRun:
        """Query the server.

        Raises:
            SinkRejected: the key is missing or rejected, or the W&B run contains another run.
            SinkUnavailable: the server cannot be reached.
        """
        found = query_run(
            self._base_url,
            project=self._project,
            entity=self._entity,
            run_id=self._run_id,
            timeout=self._timeouts.request,
        )
        path = f"{found.entity}/{self._project}"
        self.location = f"{self._base_url}, {path}, run {self._run_id}"
        # Opens the page with the charts.
        self.view = f"{self._app_url}/{quote(path)}/runs/{self._run_id}"
        if found.stored.last_seq != 0 and not self._owner.items() <= found.about.items():
            msg = f"wandb: {self.view} already contains another run; start a new run of the sweep"
            raise SinkRejected(msg)
        self._stored_seq = found.stored.last_seq or 0
        self._queried_at = self._clock()
        return found.stored

    def run_opened(self, folder: Path) -> None:
        """Ignore the local files: the server knows what is stored."""

    def expect_rows(self, next_step: int, attempt: int) -> None:
        """Save nothing: the server keeps all rows."""

    def confirmed_seq(self, accepted_seq: int) -> int | None:
        """Query the server at intervals of ``query_interval``.

        Raises:
            SinkUnavailable: uploads have stalled, or the key was rejected.
        """
        if self._clock() - self._queried_at < self._timeouts.query_interval:
            return self._stored_seq or None
        stored_before, pending_before = self._stored_seq, self._pending_seq
        try:
            self.inspect()
        except SinkRejected as error:
            # It was the key that was rejected, not a record; let the next sink_open decide.
            raise SinkUnavailable(str(error)) from error
        except SinkUnavailable:
            # wandb-core retries the upload by itself.
            self._queried_at, self._pending_seq = self._clock(), 0
            return stored_before or None
        if pending_before > stored_before == self._stored_seq:
            msg = (
                f"wandb: {self._base_url} has received no rows for {self._timeouts.query_interval:.0f} s, although it "
                "answers queries"
            )
            raise SinkUnavailable(msg)
        self._pending_seq = accepted_seq
        return self._stored_seq or None

    def wait_stored(self, accepted_seq: int, status: Status) -> None:  # noqa: ARG002 - only rows can be missing
        """Query the server until it has all rows.

        Raises:
            SinkUnavailable: rows are still missing after the timeout.
        """
        try:
            _wait_for(
                lambda: (self.inspect().last_seq or 0) >= accepted_seq,
                self._timeouts.stored,
                f"wandb has finished the run, but {self._base_url} has not received all of its rows",
            )
        except SinkRejected as error:
            raise SinkUnavailable(str(error)) from error


def _combine(earlier: StoredRun, later: StoredRun) -> StoredRun:
    """Combine the state of earlier logs with that of the next one."""
    last_alert = max(earlier.last_alert, later.last_alert)
    if later.last_seq is None:
        return replace(earlier, status=later.status, last_alert=last_alert)
    last_seq, next_step = max(earlier.last_seq or 0, later.last_seq), max(earlier.next_step, later.next_step)
    return replace(later, last_seq=last_seq, next_step=next_step, last_alert=last_alert)


def _wait_for(condition: Callable[[], bool], timeout: float, failure: str) -> None:
    deadline = time.monotonic() + timeout
    delay = 0.01
    while not condition():
        if time.monotonic() > deadline:
            msg = f"wandb: {failure}"
            raise SinkUnavailable(msg)
        time.sleep(delay)
        delay = min(1.0, delay * 2)
