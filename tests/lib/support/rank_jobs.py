"""Start jobs of several ranks as torchrun and SLURM do."""

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
    """Return whether a server could use a port."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def torchrun_environments(world: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each rank."""
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    return [{**job, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def slurm_environments(world: int) -> list[dict[str, str]]:
    """Return the variables that a SLURM step sets for each rank.

    The ranks meet on the port 15000 + the last four digits of the job ID.
    """
    number = next(number for number in range(os.getpid() % 9000, 10_000) if is_free(15_000 + number))
    job = {
        "SLURM_JOB_ID": f"7{number:04d}",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_TASKS": str(world),
    }
    return [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(world)]


class Job:
    """A running job."""

    def __init__(self, folder: Path, pids: Sequence[int], exit_codes: Iterator[str]) -> None:
        self.folder = folder
        self.codes: list[int] = []
        """Exit codes in the order of the ranks, after `wait`."""
        self._pids = pids
        self._exit_codes = exit_codes

    def wait(self, timeout: float = 120) -> list[int]:
        """Return the exit codes in the order of the ranks; a rank still running after ``timeout`` seconds is killed."""
        killer = threading.Timer(timeout, self._kill)
        killer.start()
        codes = dict(json.loads(next(self._exit_codes)) for _ in self._pids)
        killer.cancel()
        killer.join()
        self.codes = [codes[rank] for rank in range(len(self._pids))]
        return self.codes

    def stderr(self, rank: int) -> str:
        """Return what a rank wrote to stderr."""
        return (self.folder / f"err-{rank}").read_text(encoding="utf-8")

    def events(self, rank: int) -> dict[str, list[Any]]:
        """Return the processes started, the backends imported and the shapes reduced by a rank."""
        events: dict[str, list[Any]] = json.loads((self.folder / f"events-{rank}.json").read_text(encoding="utf-8"))
        return events

    def _kill(self) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Launcher:
    """A launcher of consecutive jobs, in processes forked from one that has imported torch and aimnet.

    Args:
        double: whether to train `support.double_precision.Double` in double precision, whatever the model.
    """

    def __init__(self, *, double: bool = True) -> None:
        self._options = ["--double"] if double else []

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TELEMETRY"))}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", "-P", "-m", "support.rank_main", *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # As the command sets it for several ranks, which is too late here: torch has been imported.
            env={**environment, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
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
        """Start a job with one environment per rank; by default, a single rank."""
        folder.mkdir(parents=True)
        job = {"arguments": [str(word) for word in arguments], "folder": str(folder), "environments": environments}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return Job(folder, json.loads(next(self._process.stdout)), self._process.stdout)
