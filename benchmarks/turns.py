"""Run variants side by side, each in a process of its own, one block after the other in turns."""

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
PATIENCE = 300.0
"""Seconds that a variant may take to start, for a block, or to end."""


class Late(Exception):
    """A variant has said nothing for too long, or has died."""


@dataclass
class Taken:
    """The times of a variant, by block: of each step's gap, in ns, and of the whole block."""

    gaps: list[list[int]] = field(default_factory=list)
    walls: list[int] = field(default_factory=list)
    closed: float = 0.0
    """Seconds that its end took."""


class Turn:
    """The process of a variant. A context manager.

    Args:
        job: see ``child``; ``home`` is made.
        env: on top of the environment.
    """

    def __init__(self, job: Mapping[str, Any], env: Mapping[str, str]) -> None:
        self.name, self.home, self.taken = job["variant"], Path(job["home"]), Taken()
        self.home.mkdir(parents=True)
        self._log = self.home / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "child.py"), json.dumps(dict(job))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | dict(env),
            )
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Give what it says next.

        Raises:
            Late: it says nothing for ``timeout`` seconds, or never again.
        """
        out = self._process.stdout
        assert out is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(out.fileno(), 1 << 20) if ready else b""
            if not chunk:
                told = self._log.read_text(errors="replace")[-2000:]
                raise Late(f"{self.name} said nothing for {timeout:.0f} s, or has ended:\n{told}")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def go(self, timeout: float = PATIENCE) -> None:
        """Have it do a block."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()
        said = self.hear(timeout)
        self.taken.gaps.append(said["gaps"])
        self.taken.walls.append(said["wall"])

    def end(self) -> None:
        """Wait for its end."""
        while not (said := self.hear()).get("done"):
            self.taken.closed = said["closed"]
        self._process.wait(PATIENCE)

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def job_of(name: str, home: Path, where: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """Describe what a variant is to do, as ``child`` reads it; ``home`` holds the folders of all variants."""
    given = {"every": 200, "threads": 1, "repeats": 0, "pausing": "drain"}
    return {"variant": name, "home": str(home / name), "where": dict(where)} | given | more


def environment(where: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that lead SDKs to where a variant writes."""
    return {
        "MLFLOW_TRACKING_URI": where["mlflow"],
        "MLFLOW_EXPERIMENT_NAME": where["experiment"],
        "WANDB_SILENT": "true",
    }


def take_turns(turns: list[Turn], rounds: int) -> None:
    """Have all do their blocks, each round in another order; their last block is followed by their end."""
    for turn in turns:
        turn.hear()
    for number in range(rounds):
        order = turns[number % len(turns) :] + turns[: number % len(turns)]
        for turn in order if number % 2 == 0 else reversed(order):
            turn.go()
            if number == rounds - 1:
                # Its end is its own affair too.
                turn.end()
