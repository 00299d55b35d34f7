"""A process of its own for a method of a test class, which can be killed at any time."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import pytest

Report = Callable[[Any], None]
"""Sends something that JSON can hold to the test."""

_START = (
    "import json, sys; job = json.loads(sys.argv[1]); sys.path[:] = job['path']; "
    "from telemetry.testing.child import main; main(job)"
)


class Child:
    """Call ``method(report, *args)`` of a new instance of ``cls`` in a new process.

    The process imports the file in which the class stands. It has the search path and the environment of this one,
    but no fixtures. At the end it and whatever it has started are killed, with what the method returned still alive:
    what is not safe then is lost.
    """

    def __init__(self, cls: type, method: str, *args: Any, timeout: float = 60.0) -> None:
        if "<locals>" in cls.__qualname__:
            pytest.fail(f"{cls.__qualname__} is defined in a function; other processes find it only in a module")
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._seen = b""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end
        self._pipe, there = os.pipe()
        job = {
            "path": [str(Path(folder).absolute()) for folder in sys.path],
            "module": cls.__module__,
            "file": str(Path(inspect.getfile(cls)).absolute()),
            "class": cls.__qualname__,
            "method": method,
            "args": args,
            "pipe": there,
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(job)],
                pass_fds=[there],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        finally:
            os.close(there)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        os.close(self._pipe)
        self._said.close()

    def read(self) -> Any:
        """Wait for the next report, and give it."""
        while b"\n" not in self._seen:
            # A process that it has forked may hold the pipe open, so that its end tells less than its death.
            ended = self._has_ended()
            if select.select([self._pipe], [], [], 0 if ended else 0.05)[0]:
                more = os.read(self._pipe, 1 << 16)
                ended, self._seen = not more, self._seen + more
            if ended:
                self._fail("ended without a word")
            if time.monotonic() > self._deadline:
                self._fail(f"has not answered within {self._timeout:.0f} s")
        line, _, self._seen = self._seen.partition(b"\n")
        report = json.loads(line)
        if "error" in report:
            pytest.fail(f"in a process of its own: {report['error']}")
        return report["value"]

    def kill_alone(self) -> None:
        """Kill the process, but not what it has started, and wait for its end."""
        os.kill(self._process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """Kill the process and all that it has started, and wait for its end."""
        if self._process.returncode is None:
            # Not reaped yet, so that its group cannot be another's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _has_ended(self) -> bool:
        # Not reaped: its id is that of its group, which is still to be killed.
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return found is not None

    def _fail(self, what: str) -> NoReturn:
        self._said.seek(0)
        said = self._said.read()[-4000:].decode(errors="replace")
        pytest.fail(f"the process {what}; it said: {said or 'nothing'}")


def main(job: dict[str, Any]) -> NoReturn:
    """Do what a test asks for."""
    pipe = job["pipe"]
    os.set_inheritable(pipe, False)

    def send(report: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(report).encode() + b"\n")

    kept: Any = None
    try:
        method = getattr(_find(job)(), job["method"])
        kept = method(lambda value: send({"value": value}), *job["args"])
    except BaseException as error:  # noqa: BLE001 - pytest's own ends of a test are no Exceptions
        text = str(error) if isinstance(error, AssertionError | pytest.fail.Exception) else traceback.format_exc()
        send({"error": text})
    # All has been reported. Now the test kills this process; it ends by itself only when nobody is left to do that.
    orphaned = select.poll()
    orphaned.register(pipe, 0)
    orphaned.poll()
    del kept
    raise SystemExit


def _find(job: dict[str, Any]) -> type:
    spec = importlib.util.spec_from_file_location(job["module"], job["file"])
    assert spec is not None, job["file"]
    assert spec.loader is not None, job["file"]
    found: Any = importlib.util.module_from_spec(spec)
    # dataclasses and pickles look a class's module up by its name.
    sys.modules[job["module"]] = found
    spec.loader.exec_module(found)
    for name in job["class"].split("."):
        found = getattr(found, name)
    cls: type = found
    return cls
