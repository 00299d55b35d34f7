"""Start the ranks of a training on this machine, and sample their memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

__all__ = ["Ranks", "Sample", "available", "drop_page_cache", "summarize"]

INTERVAL = 0.2
"""Seconds between two samples."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The memory of a rank and its loader workers, in MB; pages shared by n processes count 1/n."""

    time: float
    """Seconds since the start of the job."""
    rank: int
    cpu: float
    """CPU time of the rank, without its workers, in seconds."""
    private: float
    shared: float

    @property
    def pss(self) -> float:
        """The proportional set size."""
        return self.private + self.shared


class Ranks:
    """The processes of a training on this machine, started as torchrun does; a context manager that kills them on exit.

    Args:
        command: Command of each rank.
        count: Number of ranks.
        folder: Working folder, and folder of their logs ``rank-0.log``, …
        env: Additional environment variables.
    """

    def __init__(self, command: Sequence[str], count: int, folder: Path, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.samples: list[Sample] = []
        self.folder = folder
        self.started = time.time()
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
        self._processes = [
            self._start(command, rank, {**os.environ, **job, **(env or {}), "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(count)
        ]
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def wait(self, timeout: float) -> None:
        """Wait until all ranks have ended.

        Raises:
            SystemExit: A rank failed, or is still running after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        try:
            codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in self._processes]
        except subprocess.TimeoutExpired:
            raise SystemExit(f"the ranks did not end within {timeout:.0f} s:\n{self._logs()}") from None
        if any(codes):
            raise SystemExit(f"the ranks ended with {codes}:\n{self._logs()}")

    def running(self) -> bool:
        """Return whether all ranks are running."""
        return all(process.poll() is None for process in self._processes)

    def kill(self) -> None:
        """Kill all ranks with SIGKILL, and wait for their end."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._ended.set()
        self._sampler.join()

    def _start(self, command: Sequence[str], rank: int, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self._log(rank).open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=self.folder)

    def _log(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.log"

    def _logs(self) -> str:
        return "\n".join(self._log(rank).read_text(errors="replace")[-1500:] for rank in range(len(self._processes)))

    def _sample(self) -> None:
        while not self._ended.wait(INTERVAL):
            now = time.time() - self.started
            for rank, process in enumerate(self._processes):
                with suppress(OSError, KeyError):  # it has ended
                    private, shared = _memory(process.pid)
                    cpu = _cpu_seconds(process.pid)
                    self.samples.append(Sample(time=now, rank=rank, cpu=cpu, private=private, shared=shared))


def summarize(samples: Sequence[Sample], after: float = 0.0) -> dict[str, float]:
    """Return the peaks of any rank from ``after`` seconds on: PSS, private and shared, in MB."""
    peak = max((sample for sample in samples if sample.time >= after), key=lambda sample: sample.pss)
    return {"pss": peak.pss, "private": peak.private, "shared": peak.shared}


def drop_page_cache(paths: Sequence[Path]) -> None:
    """Remove files from the page cache, as if they had not been read since the last start of the machine."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def available() -> float:
    """Return the memory that can be used without swapping, in GB."""
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 1e6


def _memory(pid: int) -> tuple[float, float]:
    """Return the private and shared memory of a process and its children, in MB."""
    total = [0.0, 0.0]
    for each in (pid, *_children(pid)):
        lines = [line.split() for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()[1:]]
        kilobytes = {key.rstrip(":"): int(value) for key, value, *_ in lines}
        private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        total[0] += private / 1000
        total[1] += (kilobytes["Pss"] - private) / 1000
    return total[0], total[1]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS


def _children(pid: int) -> list[int]:
    lists = [(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for children in lists for child in children]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
