"""Submit jobs to SLURM, watch them, and take nodes away from them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import telemetry_fakes

LAB = Path(__file__).parents[3] / "slurm" / "lab.sh"
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"})
LONG = 240.0
"""Seconds that a state of a job or node may take on a busy machine."""


def eventually(condition: Callable[[], Any]) -> Any:
    """Poll until a condition is true, so rarely that the calls of SLURM's commands do not slow down the training."""
    return telemetry_fakes.eventually(condition, LONG, interval=0.3)


def call(*command: object, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """Run a command of SLURM and return its output."""
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=folder)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


def setting(name: str) -> str:
    """Return a setting of the cluster."""
    found = re.search(rf"^{name}\s*= (.*)$", call("scontrol", "show", "config"), re.MULTILINE)
    assert found, name
    return found[1].strip()


def nodes() -> list[str]:
    """Return the names of the nodes."""
    return call("sinfo", "--noheader", "--partition=main", "--Node", "--format=%N").split()


@dataclass(frozen=True)
class Job:
    """A submitted job, or a task of a job array (``12_0``)."""

    number: str
    output_file: Path

    def fields(self) -> dict[str, str]:
        """Return what ``scontrol show job`` shows."""
        line = call("scontrol", "--oneliner", "show", "job", self.number)
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    @property
    def state(self) -> str:
        return self.fields()["JobState"]

    @property
    def restarts(self) -> int:
        return int(self.fields()["Restarts"])

    @property
    def node(self) -> str:
        """The node of the batch script."""
        return self.fields()["BatchHost"]

    @property
    def output(self) -> str:
        return self.output_file.read_text(encoding="utf-8") if self.output_file.exists() else ""

    def wait(self) -> str:
        """Wait until the job has ended and return its state."""
        return str(eventually(lambda: state if (state := self.state) in ENDED else None))

    def wait_for_restart(self, restarts: int = 1) -> None:
        """Wait until the job runs after being requeued."""
        eventually(lambda: self.restarts >= restarts and self.state == "RUNNING")

    def exit_code(self) -> int:
        """Return the exit code of the batch script."""
        return int(self.fields()["ExitCode"].partition(":")[0])

    def cancel(self) -> None:
        call("scancel", self.number)

    def requeue(self) -> None:
        call("scontrol", "requeue", self.number)

    def extend_time_limit(self) -> None:
        call("scontrol", "update", f"jobid={self.number}", "timelimit=60")

    def tasks(self) -> list[int]:
        """Return the processes of all tasks, without the batch script and srun."""
        return [
            pid for pid, variables in self._environments() if any(v.startswith(b"SLURM_STEP_ID=") for v in variables)
        ]

    def kill_all(self) -> None:
        """Kill all processes of the job, first those of SLURM, so that they do not report the end of the others."""
        kill(_named(f"slurmstepd: [{self.number}."))
        kill([pid for pid, _ in self._environments()])

    def _environments(self) -> Iterator[tuple[int, list[bytes]]]:
        for path in Path("/proc").glob("[0-9]*/environ"):
            # The process may have ended.
            with contextlib.suppress(OSError):
                variables = path.read_bytes().split(b"\0")
                if f"SLURM_JOB_ID={self.number}".encode() in variables:
                    yield int(path.parent.name), variables


def _named(prefix: str) -> list[int]:
    """Return the processes whose command line starts with a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(prefix.encode()):
                found.append(int(path.parent.name))
    return found


def kill(processes: Iterable[int]) -> None:
    """Kill processes, of which some may have ended."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def submit(script: Path, *options: str, environment: Mapping[str, str]) -> Job:
    """Submit a script from its folder."""
    number = call("sbatch", "--parsable", *options, script, environment=environment, folder=script.parent)
    return Job(number, script.parent / f"slurm-{number}.out")


def end(jobs: Sequence[Job]) -> None:
    """Cancel jobs and wait until they have ended."""
    numbers = {job.number.partition("_")[0] for job in jobs}
    for number in numbers:
        call("scancel", number)
    eventually(lambda: not numbers & set(call("squeue", "--noheader", "--format=%A %F").split()))


def set_down(node: str) -> None:
    """Declare that a node has failed."""
    call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


def kill_slurmd(node: str) -> None:
    """Kill the daemon of a node; its steps continue."""
    pid = int((_folder() / f"slurmd.{node}.pid").read_text())
    kill([pid])


def restore(node: str) -> None:
    """Start the daemon of a node if it was killed, and wait until the node accepts jobs."""
    pid = int((_folder() / f"slurmd.{node}.pid").read_text())
    if not Path(f"/proc/{pid}").exists():
        subprocess.run([LAB, "node", node], check=True, env={**os.environ, "SLURM_LAB": str(_folder())}, timeout=60)
    eventually(lambda: _resume(node) in {"idle", "mixed", "allocated"})


def _resume(node: str) -> str:
    state = call("sinfo", "--noheader", "--partition=main", "--nodes", node, "--format=%T")
    if state.startswith(("down", "drain")):
        call("scontrol", "update", f"nodename={node}", "state=resume")
    return state


def _folder() -> Path:
    return Path(os.environ["SLURM_CONF"]).parent
