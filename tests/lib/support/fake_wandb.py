"""A ``wandb`` that keeps offline runs, behaves as the real one does, and fails as that has been seen to.

What it does is compared with the real one by tests/sinks/wandb/test_sdk.py. Logged values stay in memory until there is
a block of them or the run is finished; a process stands for wandb-core, and what is in memory is lost with it.
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
"""Says, by the name of a call, how it fails: one of ``WAYS``; None if it does not."""

WAYS = ("killed", "torn", "timeout")
"""wandb-core is dead before the call; it died while it wrote; it does not answer (``init`` and ``finish`` only)."""

_HEADER = b":W&B\xe1\xbe\x00"
_BLOCK = 1 << 15
_PIECE = 7
_ROOM = 400
"""Rows that a wandb-core that is frozen leaves room for, before ``log`` blocks."""


class FakeWandb:
    """What stands in ``sys.modules`` in place of wandb.

    Args:
        fault: says which calls fail.
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

    def init(self, *, id: str, mode: str, dir: str, settings: Any, **about: Any) -> FakeRun:  # noqa: A002 - wandb's
        assert mode == "offline", "the fake has no server"
        assert about["reinit"] == "create_new", "another run of this process would be finished"
        if self._core is None:
            self._core = _Core()
        core = self._core
        way = self._fault("init")
        if not core.lives() or core.meets(way):
            raise MailboxClosedError
        if way == "timeout":
            raise CommError("Run initialization has timed out after 2.0 sec.")
        if id in core.runs:
            raise ServerResponseError(f"run ID {id} is in use")
        run = FakeRun(core, _new_folder(Path(dir) / "wandb", id), id, about, self._fault)
        core.runs[id] = run
        return run

    def teardown(self) -> None:
        core, self._core = self._core, None
        if core is not None:
            if not core.lives():
                raise ConnectionResetError("Connection lost")
            for run in list(core.runs.values()):
                run.finish()
            core.end()


class _Core:
    """The process that stands for wandb-core, and ends with this one; and what it has in memory."""

    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        # A shell that waits for the end of its input, which is that of this process.
        command = ["wandb-core", "-c", "read x", "--pid", str(os.getpid())]
        self._process = subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE)
        # For a moment after its start a process has no command line, by which the sink knows it.
        while self.lives() and not Path(f"/proc/{self._process.pid}/cmdline").read_bytes():
            time.sleep(0.001)

    def lives(self) -> bool:
        return self._process.poll() is None

    def is_frozen(self) -> bool:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] == "T"

    def meets(self, way: str | None) -> bool:
        """Say whether a call meets a process that has just died."""
        if way == "torn":
            for run in self.runs.values():
                run.tear()
        if way in {"killed", "torn"}:
            self.end()
        return way in {"killed", "torn"}

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class FakeRun:
    """A run that is open."""

    core: _Core
    folder: Path
    id: str
    about: dict[str, Any]
    fault: Fault
    starting_step: int = 0
    _step: int = 0
    _finished: bool = False
    _buffer: list[Any] = field(default_factory=list)
    _waiting: int = 0

    def __post_init__(self) -> None:
        self.dir = str(self.folder / "files")
        self.summary = _Summary(self)
        self._log = _Log(self.folder / f"run-{self.id}.wandb")
        record = pb.Record()
        record.run.run_id, record.run.project = self.id, self.about["project"]
        record.run.display_name = self.about["name"]
        _put(record.run.config.update, self.about["config"])
        self._add(record)

    def log(self, row: dict[str, float], *, step: int, commit: bool) -> None:
        assert commit, "what is not committed is a part of the next row"
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
        """Write what is in memory, but for its last bytes."""
        self._flush(cut=5)

    def update(self, values: dict[str, Any]) -> None:
        """Change the summary."""
        self._check("summary")
        record = pb.Record()
        _put(record.summary.update, values)
        self._add(record)

    def _check(self, call: str) -> str | None:
        """Give how the call fails, if wandb-core is there to let it."""
        if self._finished:
            raise UsageError(f"Run ({self.id}) is finished. The call to `{call}` will be ignored.")
        while self.core.lives() and self.core.is_frozen() and (call == "finish" or self._waiting >= _ROOM):
            time.sleep(0.01)
        way = self.fault(call)
        if not self.core.lives() or self.core.meets(way):
            raise ConnectionResetError("Connection lost")
        self._waiting += self.core.is_frozen()
        return way

    def _add(self, record: Any) -> None:
        self._buffer.append(record)
        if sum(map(pb.Record.ByteSize, self._buffer)) > _BLOCK:
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
        data = b"".join(piece for record in records for piece in self._pieces(record))
        kept = data[: len(data) - cut]
        if os.write(self._fd, kept) < len(kept):
            # As a disk that is full leaves it; wandb-core says so in its own log only.
            return

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        first = True
        while True:
            left = _BLOCK - self._end % _BLOCK
            if left < _PIECE:
                self._end += left
                yield bytes(left)
                left = _BLOCK
            part, data = data[: left - _PIECE], data[left - _PIECE :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not data]
            self._end += _PIECE + len(part)
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
    """Put a fake in place of wandb, in this process."""
    sys.modules["wandb"] = wandb  # type: ignore[assignment]
    return wandb
