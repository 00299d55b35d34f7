"""A run whose processes are killed repeatedly, and the comparison of its backends with the journal."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from support.chaos.backends import Backend
from support.chaos.faults import OFFERED, SAFE, Counters
from support.chaos.figures import Figures
from support.chaos.processes import kill, marked, named
from support.telemetry_fakes import eventually
from telemetry import Settings
from telemetry.journal.reader import JournalReader
from telemetry.run_folder.sink_progress import read_progress
from telemetry.sink_api import Scalars

QUICK = {
    "telemetry.recording.open_run.DEFAULT_LIMITS": {
        "supervise_interval": 0.05,
        "heartbeat_interval": 0.1,
        "disk_backoff_initial": 0.1,
        "disk_backoff_max": 0.5,
    },
    "telemetry.delivery.process_worker.RESTART_BACKOFF_INITIAL": 0.05,
    "telemetry.delivery.process_worker.RESTART_BACKOFF_MAX": 0.2,
    "telemetry.delivery.retries.RETRY_BACKOFF_INITIAL": 0.1,
    "telemetry.delivery.retries.RETRY_BACKOFF_MAX": 0.5,
}
"""Shorter delays for the processes under test; the suite does not test the lengths of delays."""
PATIENCE = 90.0
"""Timeout in seconds of every wait, generous for a busy machine."""


class ChaosRun:
    """A run folder, its sinks, and the lives of its trainers.

    Args:
        folder: folder to create, for the run folder and the state of the faults.
        sinks: the backends to deliver to.
        seed: seed of all random choices.
        sync: duration of an fdatasync in seconds.
        clock: seconds by which the clocks of the processes jump back and forth.
        back: maximum number of iterations by which a resume goes back.
        pause: interval between points in seconds.
        place: parent of the run folder; by default below ``folder``.
        host: the machine to simulate for all processes except ``telemetry sync``.
        still: seconds after which a stale heartbeat or lease is considered dead.
        more: further settings of the run.
    """

    def __init__(
        self,
        folder: Path,
        sinks: Sequence[Backend],
        /,
        *,
        seed: int = 0,
        sync: float = 0.0,
        clock: float = 0.0,
        back: int = 0,
        pause: float = 0.001,
        place: Path | None = None,
        host: str = "",
        still: float = 0.0,
        **more: Any,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.run = (place or folder / "runs") / "run"
        self.run.parent.mkdir(exist_ok=True)
        self.sinks = sinks
        self.figures = Figures()
        self.random = random.Random(seed)
        self._plan = {"folder": str(folder), "sync": sync, "clock": clock, "set": QUICK, "host": host, "still": still}
        self._back, self._pause = back, pause
        options = {sink.name: sink.options(folder) for sink in sinks}
        self._settings: dict[str, Any] = {
            "every": 1,
            "sinks": tuple(options),
            "poll": 0.02,
            "linger": 60.0,
            "drain_timeout": 60.0,
            "options": options,
        } | more
        self._unsafe: list[str] = []
        self._lives = 0
        self._programs: list[subprocess.Popen[str]] = []
        self._logs: dict[int, Path] = {}

    # Lives.

    def start(
        self, faults: Sequence[dict[str, Any]] = (), *, points: int = 4000, stay: float = 0.0, close: str = "finished"
    ) -> subprocess.Popen[str]:
        """Start a trainer in a separate process group, which publishes points."""
        self._lives += 1
        home = self.home()
        home.mkdir()
        (home / "counters").write_bytes(bytes(64))
        armed = {"armed": str(home / "armed")}
        plan = self._plan | {
            "folder": str(home),
            "counters": str(home / "counters"),
            "faults": [fault if "flag" in fault else armed | fault for fault in faults],
        }
        given = {
            "run": str(self.run),
            "counters": str(home / "counters"),
            "settings": msgspec.to_builtins(Settings(**self._settings)),
            "seed": self.random.random(),
            "back": self._back,
            "points": points,
            "pause": self._pause,
            "stay": stay,
            "close": close,
        }
        (home / "given").write_text(json.dumps(given | plan))
        return self._spawn(["-P", "-m", "support.chaos.trainer", json.dumps(given)], plan, home / "trainer.log")

    def home(self) -> Path:
        """Return the folder of the current life."""
        return self.folder / f"life-{self._lives}"

    def start_code(self, code: str) -> subprocess.Popen[str]:
        """Start a program with the path and settings of the run as JSON on its command line."""
        given = {
            "path": str(self.run),
            "settings": msgspec.to_builtins(Settings(**self._settings)),
        }
        return self._spawn(["-c", code, json.dumps(given)], self._plan, self.folder / "trainer.log")

    def _spawn(self, words: Sequence[str | Path], plan: dict[str, Any], log_path: Path) -> subprocess.Popen[str]:
        with log_path.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"CHAOS": json.dumps(plan), "CHAOS_FOLDER": str(self.folder)},
                process_group=0,
            )
        self._programs.append(process)
        self._logs[process.pid] = log_path
        return process

    def stderr_of(self, program: subprocess.Popen[str]) -> str:
        """Return the standard error of a program."""
        return self._logs[program.pid].read_text()

    def stop(self, trainer: subprocess.Popen[str], timeout: float = PATIENCE) -> str:
        """Make a trainer close its run and return its output; fail unless it exits with 0 within ``timeout``."""
        out, _ = trainer.communicate("\n", timeout=timeout)
        home = self.home()
        assert trainer.returncode == 0, self.stderr_of(trainer)
        self.count(home)
        return out

    def all_deliver(self, home: Path) -> bool:
        """Return whether all sinks have started to deliver in the life with this folder."""
        since = (home / "given").stat().st_mtime_ns
        paths = [self.run / "sinks" / f"{sink.name}.json" for sink in self.sinks]
        if not all(path.exists() and path.stat().st_mtime_ns > since for path in paths):
            return False
        return all((p := read_progress(self.run, s.name)) is not None and p.state == "delivering" for s in self.sinks)

    def kill_target(self, trainer: subprocess.Popen[str], target: str) -> None:
        """Kill a trainer, its group, its deliveries, wandb-core, or the whole job."""
        if trainer.poll() is not None:
            return
        found = [] if target == "group" else named(trainer.pid, target)
        if target == "group":
            os.killpg(trainer.pid, signal.SIGKILL)
        for pid in found:
            kill(pid)
        if found or target == "group":
            self._note(f"{target} at random")
        if target not in {"delivery", "core"}:
            trainer.wait(PATIENCE)

    def _note(self, what: str, *sinks: str) -> None:
        self.figures.kills[what] += 1
        self.figures.hits.update(sinks or [sink.name for sink in self.sinks])

    def kills(self, home: Path) -> list[str]:
        """Return the kills caused by faults in a life, one line each."""
        try:
            return (home / "kills").read_text().splitlines()
        except FileNotFoundError:
            return []

    def count(self, home: Path) -> None:
        """Add the records and kills of a life to the figures."""
        self.figures.lives += 1
        for line in self.kills(home):
            role, point, when, do, *sink = line.split()
            hit = sink if (role, do) == ("delivery", "kill") else ()
            self._note(f"{'job' if do == 'job' else role} {when} {point}", *hit)
        counters = Counters(str(home / "counters"))
        offered, safe = counters[OFFERED], counters[SAFE]
        journaled = len(self.records()) - self.figures.journaled
        self.figures.offered += offered
        self.figures.journaled += journaled
        self.figures.most_unwritten = max(self.figures.most_unwritten, offered - journaled)
        if not safe <= journaled <= offered:
            self._unsafe.append(f"{home.name}: {safe} safe, {journaled} journaled, {offered} offered")

    # Results.

    def records(self, *, superseded: bool = True) -> dict[int, Scalars]:
        """Return the points in the journal by sequence number."""
        reader = JournalReader(self.run, superseded=superseded)
        found: dict[int, Scalars] = {}
        while batch := reader.read(10_000, live=False):
            found.update({record.seq: record for record in batch if isinstance(record, Scalars)})
        return found

    def wait_for_processes(self) -> None:
        """Wait until all processes of this run have ended."""
        eventually(lambda: not list(self.processes()), PATIENCE)

    def accepted(self, name: str) -> int:
        """Return the sequence number of the last record accepted by a sink."""
        progress = read_progress(self.run, name)
        return 0 if progress is None else progress.cursor.accepted

    def wait_for_new_point(self, name: str) -> None:
        """Wait until a sink has accepted a point published after this call."""
        goal = max(self.records(), default=0)
        eventually(lambda: self.accepted(name) > goal, PATIENCE)

    def sync(self, *names: str, options: Sequence[str] = (), host: str = "") -> str:
        """Run ``telemetry sync`` and return its output; fail unless it exits with 0."""
        process = self.start_sync(*names, options=options, host=host)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, out + self.stderr_of(process)
        return out

    def start_sync(
        self, *names: str, options: Sequence[str] = (), host: str = "", follow: bool = False
    ) -> subprocess.Popen[str]:
        """Start ``telemetry sync``, here or as if on another machine; ``options`` are arguments of ``-o``."""
        wanted = names or tuple(sink.name for sink in self.sinks)
        given = [f"{name}.{key}={value}" for name in wanted for key, value in self._settings["options"][name].items()]
        more = [word for option in [*given, *options] for word in ("-o", option)] + ["--follow"] * follow
        plan = {key: value for key, value in self._plan.items() if key not in {"sync", "clock"}} | {"host": host}
        words = ["-m", "telemetry", "sync", str(self.run), "--telemetry-sinks", ",".join(wanted), *more]
        return self._spawn(words, plan, self.folder / f"sync-{len(self._programs)}.log")

    def finish(self) -> Figures:
        """Deliver the remaining records, and compare each backend with the journal."""
        self.wait_for_processes()
        self.sync()
        self.sync()
        self.compare()
        assert self._unsafe == []
        return self.figures

    def compare(self) -> None:
        """Compare each backend with the journal."""
        everything = self.records()
        valid = set(self.records(superseded=False))
        for sink in self.sinks:
            shown = Counter(sink.shown(self.run, everything))
            assert set(shown) <= set(everything), f"{sink.name} shows points that were never journaled"
            self.figures.delivered[sink.name] += len(shown)
            self.figures.lost[sink.name] += len(valid - set(shown))
            self.figures.doubled[sink.name] += shown.total() - len(shown)
            sink.check(self.run, [everything[seq] for seq in sorted(valid)])

    def check(self) -> None:
        """Assert that no record was lost or duplicated, and that no process or lease is left."""
        assert +self.figures.lost == Counter()
        assert +self.figures.doubled == Counter()
        assert not list(self.processes())
        for sink in self.sinks:
            progress = read_progress(self.run, sink.name)
            assert progress is not None
            assert progress.state == "closed"
        leases = [json.loads(path.read_bytes()) for path in (self.run / "sinks").glob("*.lease-*")]
        assert all(lease["released"] for lease in leases)

    def processes(self) -> Iterator[int]:
        """Yield the processes of this run."""
        return marked(f"CHAOS_FOLDER={self.folder}")

    def end(self) -> None:
        """Kill all remaining processes."""
        for pid in self.processes():
            kill(pid)
        for program in self._programs:
            program.kill()
            program.communicate()
