"""A fake ``wandb`` for offline runs, which fails in ways observed with the real one.

tests/sinks/wandb/test_sdk.py runs the same tests on both. Logged values stay in memory until they fill a block or the
run is finished; a process represents wandb-core, and the values in memory are lost with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wandb.errors import CommError, UsageError
from wandb.proto import wandb_internal_pb2
from wandb.sdk.mailbox import MailboxClosedError
from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

pb: Any = wandb_internal_pb2  # its messages are created at run time

Fault = Callable[[str], "str | None"]
"""Function that returns how the call with this name fails: one of ``FAILURES``, or None."""

FAILURES = ("killed", "torn", "timeout")
"""wandb-core is killed before the call; it is killed while writing; it does not answer (``init`` and ``finish``)."""

_HEADER = b":W&B\xe1\xbe\x00"
_BLOCK_BYTES = 1 << 15
_FRAGMENT_HEADER_BYTES = 7
_SUSPENDED_CAPACITY = 400
"""Rows accepted while wandb-core is suspended, before ``log`` blocks."""


class FakeWandb:
    """The fake module.

    Args:
        fault: function that returns how a call fails.
    """

    def __init__(self, fault: Fault = lambda _: None) -> None:
        self._fault = fault
        self._core: _Core | None = None
        self.Settings = SimpleNamespace

    def setup(self) -> Any:
        settings = SimpleNamespace(
            base_url="https://api.wandb.invalid",
            app_url="https://wandb.invalid",
            entity=None,
            mode="online",
            model_fields_set=set(),
            sweep_id=None,
        )
        return SimpleNamespace(settings=settings)

    def init(self, *, id: str, mode: str, dir: str, settings: Any, **arguments: Any) -> FakeRun:  # noqa: A002 - wandb's
        assert mode == "offline", "the fake has no server"
        assert arguments["reinit"] == "create_new", "wandb would finish other runs of this process"
        if self._core is None:
            self._core = _Core()
        core = self._core
        failure = self._fault("init")
        if not core.is_alive() or core.apply(failure):
            raise MailboxClosedError
        if failure == "timeout":
            raise CommError("Run initialization has timed out after 2.0 sec.")
        if id in core.runs:
            raise ServerResponseError(f"run ID {id} is in use")
        run = FakeRun(core, _new_folder(Path(dir) / "wandb", id), id, arguments, self._fault)
        core.runs[id] = run
        return run

    def teardown(self) -> None:
        core, self._core = self._core, None
        if core is not None:
            if not core.is_alive():
                raise ConnectionResetError("Connection lost")
            for run in list(core.runs.values()):
                run.finish()
            core.end()


class _Core:
    """A process that represents wandb-core, with the open runs; it ends with this process."""

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        # A shell that waits for the end of its input, which is closed when this process ends.
        command = ["wandb-core", "-c", "read x", "--pid", str(os.getpid())]
        self._process = subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE)
        # The sink recognizes the process by its command line, which is empty for a moment after the start.
        while self.is_alive() and not Path(f"/proc/{self._process.pid}/cmdline").read_bytes():
            time.sleep(0.001)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def is_suspended(self) -> bool:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] == "T"

    def apply(self, failure: str | None) -> bool:
        """Kill the process if the failure requires it, and return whether it was killed."""
        if failure == "torn":
            for run in self.runs.values():
                run.tear()
        if failure in {"killed", "torn"}:
            self.end()
        return failure in {"killed", "torn"}

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class FakeRun:
    """An open run."""

    core: _Core
    folder: Path
    id: str
    arguments: dict[str, Any]
    fault: Fault
    starting_step: int = 0
    _step: int = 0
    _finished: bool = False
    _buffer: list[pb.Record] = field(default_factory=list)
    _pending: int = 0

    def __post_init__(self) -> None:
        self.dir = str(self.folder / "files")
        self.summary = _Summary(self)
        self._log = _Log(self.folder / f"run-{self.id}.wandb")
        record = pb.Record()
        record.run.run_id, record.run.project = self.id, self.arguments["project"]
        record.run.display_name = self.arguments["name"]
        _put(record.run.config.update, self.arguments["config"])
        self._add(record)

    def log(self, row: dict[str, float], *, step: int, commit: bool) -> None:
        assert commit, "values that are not committed become part of the next row"
        self._check("log")
        if step < self._step:
            return
        self._step = step + 1
        record = pb.Record()
        record.history.step.num = step
        _put(record.history.item, {"_timestamp": time.time()} | row | {"_step": step})
        self._add(record)

    def define_metric(self, name: str, *, step_metric: str | None = None, hidden: bool | None = None) -> None:
        self._check("define_metric")

    def alert(self, *, title: str, text: str, level: str, wait_duration: float) -> None:
        self._check("alert")
        record = pb.Record()
        record.alert.title, record.alert.text, record.alert.level = title, text, level
        self._add(record)

    def mark_preempting(self) -> None:
        record = pb.Record()
        record.preempting.SetInParent()
        self._add(record)

    def finish(self, exit_code: int = 0) -> None:
        if self._check("finish") == "timeout":
            raise TimeoutError("Timed out finishing run.")
        record = pb.Record()
        record.exit.exit_code = exit_code
        self._add(record)
        self._flush()
        self._finished = True
        del self.core.runs[self.id]

    def tear(self) -> None:
        """Write the values in memory except for the last bytes."""
        self._flush(cut=5)

    def update(self, values: dict[str, Any]) -> None:
        """Update the summary."""
        self._check("summary")
        record = pb.Record()
        _put(record.summary.update, values)
        self._add(record)

    def _check(self, call: str) -> str | None:
        """Return how the call fails.

        Raises:
            UsageError: the run is finished.
            ConnectionResetError: wandb-core is dead, or killed by the call.
        """
        if self._finished:
            raise UsageError(f"Run ({self.id}) is finished. The call to `{call}` will be ignored.")
        while (
            self.core.is_alive()
            and self.core.is_suspended()
            and (call == "finish" or self._pending >= _SUSPENDED_CAPACITY)
        ):
            time.sleep(0.01)
        failure = self.fault(call)
        if not self.core.is_alive() or self.core.apply(failure):
            raise ConnectionResetError("Connection lost")
        self._pending += self.core.is_suspended()
        return failure

    def _add(self, record: Any) -> None:
        self._buffer.append(record)
        if sum(map(pb.Record.ByteSize, self._buffer)) > _BLOCK_BYTES:
            self._flush()

    def _flush(self, cut: int = 0) -> None:
        self._log.write([record.SerializeToString() for record in self._buffer], cut)
        self._buffer.clear()


class _Summary:
    def __init__(self, run: FakeRun) -> None:
        self._run = run

    def __setitem__(self, key: str, value: Any) -> None:
        self._run.update({key: value})

    def update(self, values: dict[str, Any]) -> None:
        self._run.update(values)


class _Log:
    """A file in LevelDB's log format."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        self._end = os.write(self._fd, _HEADER)

    def __del__(self) -> None:
        os.close(self._fd)

    def write(self, records: list[bytes], cut: int) -> None:
        """Write records, without the last ``cut`` bytes."""
        data = b"".join(fragment for record in records for fragment in self._fragments(record))
        kept = data[: len(data) - cut]
        if os.write(self._fd, kept) < len(kept):
            # The disk is full, which wandb-core reports only in its own log.
            return

    def _fragments(self, data: bytes) -> Iterator[bytes]:
        first = True
        while True:
            left = _BLOCK_BYTES - self._end % _BLOCK_BYTES
            if left < _FRAGMENT_HEADER_BYTES:
                self._end += left
                yield bytes(left)
                left = _BLOCK_BYTES
            part, data = data[: left - _FRAGMENT_HEADER_BYTES], data[left - _FRAGMENT_HEADER_BYTES :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not data]
            self._end += _FRAGMENT_HEADER_BYTES + len(part)
            yield struct.pack("<IHB", zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            if not data:
                return
            first = False


def _new_folder(parent: Path, run_id: str) -> Path:
    stem = f"offline-run-{time.strftime('%Y%m%d_%H%M%S')}-{run_id}"
    for number in range(1000):
        folder = parent / (f"{stem}-{number}" if number else stem)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError(stem)


def _put(items: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        item = items.add()
        item.nested_key.append(key)
        item.value_json = json.dumps(value)


def install(wandb: FakeWandb) -> FakeWandb:
    """Replace wandb by a fake in this process."""
    sys.modules["wandb"] = wandb  # type: ignore[assignment]
    return wandb
