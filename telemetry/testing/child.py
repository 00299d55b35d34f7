"""Run a method of a test class in a separate process, which can be killed at any time."""

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
"""A function that sends a JSON-compatible value to the test."""

_START = (
    "import json, sys; job = json.loads(sys.argv[1]); sys.path[:] = job['path']; "
    "from telemetry.testing.child import main; main(job)"
)


class Child:
    """A new process that calls ``method(report, *args)`` on a new instance of ``cls``. A context manager.

    The process imports the file that defines the class. It inherits the search path and the environment, but has no
    fixtures. At the end of the block, it and all processes it has started are killed while the object returned by the
    method is still alive: data that is not durable by then is lost.

    Args:
        cls: a class defined at the top level of a module.
        method: name of the method.
        args: JSON-compatible arguments.
        timeout: maximum time for all reports together, in seconds.
    """

    def __init__(self, cls: type, method: str, *args: Any, timeout: float = 60.0) -> None:
        if "<locals>" in cls.__qualname__:
            pytest.fail(f"{cls.__qualname__} is defined in a function; move it to the top level of a module")
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._buffer = b""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end
        self._pipe, write_end = os.pipe()
        job = {
            "path": [str(Path(folder).absolute()) for folder in sys.path],
            "module": cls.__module__,
            "file": str(Path(inspect.getfile(cls)).absolute()),
            "class": cls.__qualname__,
            "method": method,
            "args": args,
            "pipe": write_end,
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(job)],
                pass_fds=[write_end],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
            )
        finally:
            os.close(write_end)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        os.close(self._pipe)
        self._output.close()

    def read(self) -> Any:
        """Wait for the next report and return it."""
        while b"\n" not in self._buffer:
            # A forked process may hold the pipe open, so end of file may never show that the child has died.
            ended = self._has_ended()
            if select.select([self._pipe], [], [], 0 if ended else 0.05)[0]:
                more = os.read(self._pipe, 1 << 16)
                ended, self._buffer = not more, self._buffer + more
            if ended:
                self._fail("ended without a report")
            if time.monotonic() > self._deadline:
                self._fail(f"did not report within {self._timeout:.0f} s")
        line, _, self._buffer = self._buffer.partition(b"\n")
        report = json.loads(line)
        if "error" in report:
            pytest.fail(f"in a separate process: {report['error']}")
        return report["value"]

    def kill_alone(self) -> None:
        """Kill the process, but not those it has started, and wait for it to end."""
        os.kill(self._process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """Kill the process and all processes it has started, and wait for it to end."""
        if self._process.returncode is None:
            # Not reaped yet, so its process group ID cannot have been reused.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _has_ended(self) -> bool:
        # Do not reap the process: its ID is still needed to kill its process group.
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return found is not None

    def _fail(self, what: str) -> NoReturn:
        self._output.seek(0)
        output = self._output.read()[-4000:].decode(errors="replace")
        pytest.fail(f"the process {what}; its output: {output or 'none'}")


def main(job: dict[str, Any]) -> NoReturn:
    """Run the method in the new process, then wait to be killed."""
    pipe = job["pipe"]
    os.set_inheritable(pipe, False)

    def send(report: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(report).encode() + b"\n")

    result: Any = None
    try:
        method = getattr(_find(job)(), job["method"])
        result = method(lambda value: send({"value": value}), *job["args"])
    except BaseException as error:  # noqa: BLE001 - pytest.fail and pytest.skip raise no Exception
        text = str(error) if isinstance(error, AssertionError | pytest.fail.Exception) else traceback.format_exc()
        send({"error": text})
    # Wait for the test to kill this process; if the test process has died, exit.
    orphaned = select.poll()
    orphaned.register(pipe, 0)
    orphaned.poll()
    del result
    raise SystemExit


def _find(job: dict[str, Any]) -> type:
    spec = importlib.util.spec_from_file_location(job["module"], job["file"])
    assert spec is not None, job["file"]
    assert spec.loader is not None, job["file"]
    found: Any = importlib.util.module_from_spec(spec)
    # dataclasses and pickle look up the module of a class by name.
    sys.modules[job["module"]] = found
    spec.loader.exec_module(found)
    for name in job["class"].split("."):
        found = getattr(found, name)
    cls: type = found
    return cls
