"""A W&B sink that is opened, and what W&B shows then: read from its files by wandb's own tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from sinks.wandb.sink import WandbSink
from telemetry import RunRecord
from telemetry.sink_api import Opened, Record
from telemetry.testing import Point, run_record

CORE = Path(wandb.__file__).parent / "bin" / "wandb-core"
OWN = {"trainer/iteration", "telemetry/seq", "telemetry/attempt"}


def segment_files(folder: Path) -> list[Path]:
    """The offline files of the run in a folder, the oldest first."""
    # Those of one second have -1 to -10 behind their names.
    return sorted(
        (folder / "wandb").glob("offline-run-*/run-*.wandb"),
        key=lambda path: (path.parent.name[:27], len(path.parent.name), path.parent.name),
    )


def inspect(path: Path) -> list[dict[str, Any]]:
    """All records of a file, read by wandb-core."""
    command: list[str | Path] = [CORE, "leet", "inspect", "-no-observability", "-json", "-run-file", path]
    out = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout
    return [json.loads(line) for line in out.splitlines()]


def records(folder: Path, kind: str) -> list[Any]:
    """What the records of one kind hold, in all files of a run."""
    return [r[kind] for path in segment_files(folder) for r in inspect(path) if r["type"] == kind]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of history in all files of a run."""
    return [history["item"] for history in records(folder, "history")]


def exit_codes(folder: Path) -> list[int]:
    """With what each file ends that has an end."""
    return [end.get("exit_code", 0) for end in records(folder, "exit")]


def config(folder: Path) -> dict[str, Any]:
    """The configuration, as the file that is the newest has it."""
    found = records(folder, "run")
    return found[-1]["config"]["update"] if found else {}


def points(history: Iterable[Mapping[str, Any]], units: Mapping[str, str]) -> list[Point]:
    """The points of some rows."""
    return [
        Point(
            name,
            row["trainer/iteration"],
            float(value),
            round(row["_timestamp"] * 1000),
            units.get(name, "1"),
        )
        for row in history
        for name, value in row.items()
        if name not in OWN and not name.startswith("_")
    ]


def opened(folder: Path, run: RunRecord | None = None, **options: Any) -> tuple[WandbSink, Opened]:
    """A sink that is open on a run, offline unless the options say something else."""
    folder.mkdir(parents=True, exist_ok=True)
    sink = WandbSink(WandbSink.Options(**{"mode": "offline"} | options))
    return sink, sink.sink_open(run or run_record(folder.name), folder)


def deliver(
    folder: Path, given: Sequence[Record], status: Any = "finished", reason: str = "", **options: Any
) -> WandbSink:
    """Write with a new instance what W&B does not hold, and close it."""
    sink, found = opened(folder, **options)
    sink.sink_write([record for record in given if record.seq > (found.last_seq or 0)])
    sink.sink_close(status, reason)
    return sink


def seqs(folder: Path) -> list[int]:
    """The sequence numbers of all rows, in order."""
    return [row["telemetry/seq"] for row in rows(folder)]


def in_a_row(last: int) -> list[int]:
    """The numbers 1 to ``last``."""
    return list(range(1, last + 1))


def cores(parent: int | None = None) -> list[int]:
    """The wandb-cores that a process has started, this one by default."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name, *arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        asked = [b"--pid", str(parent or os.getpid()).encode()]
        if name.endswith(b"wandb-core") and arguments[-3:-1] == asked:
            found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is so; fail if it is not in time. A delivery is given no time that others want."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


def wandb_cli(folder: Path, *arguments: object) -> str:
    """Run wandb's command in a folder; give what it says."""
    command = [str(Path(sys.executable).with_name("wandb")), *map(str, arguments)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, cwd=folder
    )
    return done.stdout + done.stderr


def sync(folder: Path) -> str:
    """Sync all files of a run, as its view says."""
    return wandb_cli(folder, "sync", "--yes", *sorted((folder / "wandb").glob("offline-run-*")))
