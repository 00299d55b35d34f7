"""Jobs of several ranks, as a launcher starts them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from support.ports import free_port


def is_free(port: int) -> bool:
    """Say whether a server could have a port."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def torchrun_environments(world: int) -> list[dict[str, str]]:
    """Return what torchrun sets for each rank."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    return [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def slurm_environments(world: int) -> list[dict[str, str]]:
    """Return what a step of SLURM sets for each rank; they meet at port 15000 + the last four digits of the job."""
    number = next(number for number in range(os.getpid() % 9000, 10_000) if is_free(15_000 + number))
    job = {
        "SLURM_JOB_ID": f"7{number:04d}",
        "SLURM_JOB_NODELIST": "127.0.0.1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NTASKS": str(world),
        "SLURM_STEP_NUM_TASKS": str(world),
    }
    return [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(world)]


class Job:
    """A job that has been started."""

    def __init__(self, folder: Path, pids: Sequence[int], endings: Iterator[str]) -> None:
        self.folder = folder
        self._pids = pids
        self._endings = endings

    def wait(self, timeout: float = 120) -> list[int]:
        """Return the exit code of each rank, -9 for one that had to be killed; in the order of the ranks."""
        killer = threading.Timer(timeout, self._kill)
        killer.start()
        codes = dict(json.loads(next(self._endings)) for _ in self._pids)
        killer.cancel()
        killer.join()
        return [codes[rank] for rank in range(len(self._pids))]

    def said(self, rank: int) -> str:
        """Return what a rank wrote to stderr."""
        return (self.folder / f"err-{rank}").read_text(encoding="utf-8")

    def seen(self, rank: int) -> dict[str, list[Any]]:
        """Return what a rank started, imported and added up."""
        seen: dict[str, list[Any]] = json.loads((self.folder / f"seen-{rank}.json").read_text(encoding="utf-8"))
        return seen

    def _kill(self) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Launcher:
    """Starts jobs, one after another."""

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TELEMETRY"))}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", "-P", "-m", "support.rank_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(
        self, folder: Path, arguments: Sequence[object], environments: Sequence[Mapping[str, str]] = ({},)
    ) -> Job:
        """Start a job; one environment for each rank, by default one rank that is alone."""
        folder.mkdir(parents=True)
        job = {"arguments": [str(word) for word in arguments], "folder": str(folder), "environments": environments}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return Job(folder, json.loads(next(self._process.stdout)), self._process.stdout)
