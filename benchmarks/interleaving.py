"""Run variants in separate processes, one block of steps at a time, in alternation."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
RESPONSE_TIMEOUT = 300.0
"""Maximum time in seconds for a variant to start, to run a block, or to end."""


class NoResponse(Exception):
    """A variant did not respond in time, or its process ended."""


@dataclass
class Timings:
    """Times of a variant.

    Attributes:
        gaps: for each block, the times between consecutive steps, in ns.
        walls: duration of each block, in ns.
        close_seconds: duration of closing the run, in seconds.
    """

    gaps: list[list[int]] = field(default_factory=list)
    walls: list[int] = field(default_factory=list)
    close_seconds: float = 0.0


class VariantProcess:
    """The process of a variant; a context manager that kills it on exit.

    Args:
        job: the job from ``make_job``; its ``home`` is created.
        env: additional environment variables.
    """

    def __init__(self, job: Mapping[str, Any], env: Mapping[str, str]) -> None:
        self.name, self.timings = job["variant"], Timings()
        home = Path(job["home"])
        home.mkdir(parents=True)
        self._log = home / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "variant_main.py"), json.dumps(dict(job))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | dict(env),
            )
        self._unread = b""

    def read_message(self, timeout: float = RESPONSE_TIMEOUT) -> dict[str, Any]:
        """Return the next message of the process.

        Raises:
            NoResponse: no message arrived within ``timeout`` seconds, or the process has ended.
        """
        out = self._process.stdout
        assert out is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(out.fileno(), 1 << 20) if ready else b""
            if not chunk:
                log = self._log.read_text(errors="replace")[-2000:]
                raise NoResponse(f"{self.name} did not respond for {timeout:.0f} s, or its process ended:\n{log}")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def run_block(self, timeout: float = RESPONSE_TIMEOUT) -> None:
        """Let the variant run its next block.

        Raises:
            NoResponse: the variant did not finish the block within ``timeout`` seconds, or its process has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()
        message = self.read_message(timeout)
        self.timings.gaps.append(message["gaps"])
        self.timings.walls.append(message["wall"])

    def finish(self) -> None:
        """Wait until the variant has ended.

        Raises:
            NoResponse: it did not close its run in time.
        """
        while not (message := self.read_message()).get("done"):
            self.timings.close_seconds = message["close_seconds"]
        self._process.wait(RESPONSE_TIMEOUT)

    def __enter__(self) -> VariantProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def make_job(name: str, home: Path, destination: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """Return the job of a variant, to be passed to ``variant_main``.

    Args:
        name: name of the variant.
        home: the folder of the benchmark, which contains the folders of all variants.
        destination: the result of ``Backends.destination``.
        options: ``block`` and ``rounds``; optionally ``every``, ``threads``, ``repeats`` (see ``MatrixProduct``) and
            ``between_blocks`` (see ``telemetry_runs.run``).
    """
    defaults = {"every": 200, "threads": 1, "repeats": 0, "between_blocks": "drain"}
    return {"variant": name, "home": str(home / name), "destination": dict(destination)} | defaults | options


def environment(destination: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that direct SDKs to the destination of a variant."""
    return {
        "MLFLOW_TRACKING_URI": destination["mlflow"],
        "MLFLOW_EXPERIMENT_NAME": destination["experiment"],
        "WANDB_SILENT": "true",
    }


def interleave(processes: list[VariantProcess], rounds: int) -> None:
    """Run one block of each variant per round, in a different order each round."""
    for process in processes:
        process.read_message()
    for number in range(rounds):
        order = processes[number % len(processes) :] + processes[: number % len(processes)]
        for process in order if number % 2 == 0 else reversed(order):
            process.run_block()
            if number == rounds - 1:
                # Wait here, so that no other variant runs while this one closes its run.
                process.finish()
