"""One run whose processes are killed again and again, and what is left of it in the end."""

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
    "telemetry.recording.bus.TICK": 0.05,
    "telemetry.recording.bus.HEARTBEAT_INTERVAL": 0.1,
    "telemetry.recording.bus.FIRST_RETRY": 0.1,
    "telemetry.recording.bus.LAST_RETRY": 0.5,
    "telemetry.delivery.supervisor.FIRST_RESTART": 0.05,
    "telemetry.delivery.supervisor.LAST_RESTART": 0.2,
    "telemetry.delivery.delivery.FIRST_RETRY": 0.1,
    "telemetry.delivery.delivery.LAST_RETRY": 0.5,
}
"""Times that are seconds and minutes otherwise: what is tested is not how long anything waits."""
PATIENCE = 90.0
"""Seconds that anything may take on a machine that is busy."""


class ChaosRun:
    """A run folder, its sinks, and the lives of its trainers.

    Args:
        folder: is made; holds the run folder and what the faults keep.
        sinks: the backends that it is delivered to.
        seed: of everything that is left to chance.
        sync: seconds that stand for an fdatasync.
        clock: seconds by which the clocks of the processes jump to and fro.
        back: how many iterations a resume goes back at most.
        pause: seconds between two points.
        place: the folder for the run folder.
        host: stands for the machine that all but ``sync`` runs on.
        still: seconds after which what stands still is dead.
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
        """Start a trainer in a process group of its own, and have it publish."""
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
        """Give the folder of the life that began last."""
        return self.folder / f"life-{self._lives}"

    def start_code(self, code: str) -> subprocess.Popen[str]:
        """Start a program of one's own, which finds how to open the run in ``given``, as JSON, on its command line."""
        given = {
            "path": str(self.run),
            "settings": msgspec.to_builtins(Settings(**self._settings)),
        }
        return self._spawn(["-c", code, json.dumps(given)], self._plan, self.folder / "trainer.log")

    def _spawn(self, words: Sequence[str | Path], plan: dict[str, Any], said: Path) -> subprocess.Popen[str]:
        with said.open("w") as log:
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
        self._logs[process.pid] = said
        return process

    def said(self, program: subprocess.Popen[str]) -> str:
        """Give what a program wrote to standard error."""
        return self._logs[program.pid].read_text()

    def stop(self, trainer: subprocess.Popen[str], timeout: float = PATIENCE) -> str:
        """Have a trainer close its run; give what it printed. Fails unless it exits with 0 within ``timeout``."""
        out, _ = trainer.communicate("\n", timeout=timeout)
        home = self.home()
        assert trainer.returncode == 0, self.said(trainer)
        self.count(home)
        return out

    def all_deliver(self, home: Path) -> bool:
        """Say whether all sinks have begun to deliver since the life of this folder began."""
        since = (home / "given").stat().st_mtime_ns
        paths = [self.run / "sinks" / f"{sink.name}.json" for sink in self.sinks]
        if not all(path.exists() and path.stat().st_mtime_ns > since for path in paths):
            return False
        return all((p := read_progress(self.run, s.name)) is not None and p.state == "delivering" for s in self.sinks)

    def kill_of(self, trainer: subprocess.Popen[str], whom: str) -> None:
        """Kill a trainer, or its group, its deliveries, wandb-core, or the whole job."""
        if trainer.poll() is not None:
            return
        found = [] if whom == "group" else named(trainer.pid, whom)
        if whom == "group":
            os.killpg(trainer.pid, signal.SIGKILL)
        for pid in found:
            kill(pid)
        if found or whom == "group":
            self._note(f"{whom} at random")
        if whom not in {"delivery", "core"}:
            trainer.wait(PATIENCE)

    def _note(self, what: str, *sinks: str) -> None:
        self.figures.kills[what] += 1
        self.figures.hits.update(sinks or [sink.name for sink in self.sinks])

    def kills(self, home: Path) -> list[str]:
        """Give the kills of a life that the faults themselves have made, a line each."""
        try:
            return (home / "kills").read_text().splitlines()
        except FileNotFoundError:
            return []

    def count(self, home: Path) -> None:
        """Take what became of the records of a life into the figures."""
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

    # What is left.

    def records(self, *, superseded: bool = True) -> dict[int, Scalars]:
        """Give the points of the journal by their numbers."""
        reader = JournalReader(self.run, superseded=superseded)
        found: dict[int, Scalars] = {}
        while batch := reader.read(10_000, live=False):
            found.update({record.seq: record for record in batch if isinstance(record, Scalars)})
        return found

    def rest(self) -> None:
        """Wait until no process of this run is left."""
        eventually(lambda: not list(self.processes()), PATIENCE)

    def accepted(self, name: str) -> int:
        """Give the number of the last record that a sink has taken."""
        progress = read_progress(self.run, name)
        return 0 if progress is None else progress.cursor.accepted

    def follows(self, name: str) -> None:
        """Wait until a sink has taken a point that is published from now on."""
        goal = max(self.records(), default=0)
        eventually(lambda: self.accepted(name) > goal, PATIENCE)

    def sync(self, *names: str, options: Sequence[str] = (), host: str = "") -> str:
        """Run ``telemetry sync``, and give what it says; fails unless it exits with 0."""
        process = self.start_sync(*names, options=options, host=host)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, out + self.said(process)
        return out

    def start_sync(
        self, *names: str, options: Sequence[str] = (), host: str = "", follow: bool = False
    ) -> subprocess.Popen[str]:
        """Start ``telemetry sync``, here or as on another machine; ``options`` as ``-o`` takes them."""
        wanted = names or tuple(sink.name for sink in self.sinks)
        given = [f"{name}.{key}={value}" for name in wanted for key, value in self._settings["options"][name].items()]
        more = [word for option in [*given, *options] for word in ("-o", option)] + ["--follow"] * follow
        plan = {key: value for key, value in self._plan.items() if key not in {"sync", "clock"}} | {"host": host}
        words = ["-m", "telemetry", "sync", str(self.run), "--telemetry-sinks", ",".join(wanted), *more]
        return self._spawn(words, plan, self.folder / f"sync-{len(self._programs)}.log")

    def finish(self) -> Figures:
        """Deliver the rest, and compare each backend with the journal."""
        self.rest()
        self.sync()
        self.sync()
        self.compare()
        assert self._unsafe == []
        return self.figures

    def compare(self) -> None:
        """Hold what each backend shows against the journal."""
        everything = self.records()
        valid = set(self.records(superseded=False))
        for sink in self.sinks:
            shown = Counter(sink.shown(self.run, everything))
            assert set(shown) <= set(everything), f"{sink.name} shows what was never journaled"
            self.figures.delivered[sink.name] += len(shown)
            self.figures.lost[sink.name] += len(valid - set(shown))
            self.figures.doubled[sink.name] += shown.total() - len(shown)
            sink.check(self.run, [everything[seq] for seq in sorted(valid)])

    def check(self) -> None:
        """Assert that nothing was lost or doubled, and that no process and no lock is left."""
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
        """Give the processes that belong to this run."""
        return marked(f"CHAOS_FOLDER={self.folder}")

    def end(self) -> None:
        """Kill what is left."""
        for pid in self.processes():
            kill(pid)
        for program in self._programs:
            program.kill()
            program.communicate()
