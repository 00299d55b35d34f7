"""Targets of the start: imports, ``--help``, and the first iteration."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from target import Target, at_most

from telemetry.journal.reader import JournalReader
from telemetry.records import Scalars

IMPORT = "import time; t = time.perf_counter(); import telemetry; print(time.perf_counter() - t)"
COMMAND = Path(sys.executable).with_name("aimnet2mult")
SINKS = {"none": "none", "three": "tensorboard,wandb,mlflow"}


def rows(home: Path, factor: float) -> list[Target]:
    """Measure them."""
    home.mkdir()
    times = max(3, round(9 * factor))
    imports = [float(_output([sys.executable, "-c", IMPORT])) for _ in range(times)]
    helps = [_seconds([str(COMMAND), "--help"]) for _ in range(times)]
    firsts = _firsts(home, max(2, round(4 * factor)))
    # The quickest of each: what delays a start on a machine with other work is not what is asked for here.
    none, three = (min(times) for times in zip(*firsts, strict=True))
    note = f"{none:.2f} s with none; the quickest of {len(firsts)}"
    return [
        at_most("`import telemetry`", 100, statistics.median(imports) * 1e3, "ms"),
        at_most("`aimnet2mult --help`", 0.5, statistics.median(helps), "s"),
        at_most("first iteration, later with three sinks than with none", 0.1, three - none, "s", note),
    ]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    _output(command)
    return time.perf_counter() - began


def _firsts(home: Path, rounds: int) -> list[tuple[float, float]]:
    """Give, for each round, the seconds to the first iteration with none and with three sinks, in turns."""
    _output([str(COMMAND), "sample-data", str(home / "data")])
    # The first run makes the database of MLflow, and brings the modules to memory.
    _first(home, SINKS["three"], "warm-up")
    found = []
    for number in range(rounds):
        order = ("none", "three") if number % 2 else ("three", "none")
        pair = {name: _first(home, SINKS[name], f"{number}-{name}") for name in order}
        found.append((pair["none"], pair["three"]))
    return found


def _first(home: Path, sinks: str, name: str) -> float:
    # MLflow in its database: a server on this machine would take its cores for itself.
    data = home / "data"
    command = [str(COMMAND), "train", "--config", str(data / "train.yaml"), "--model", str(data / "model.yaml")]
    command += ["--threads", "1", "--telemetry-every", "1", "--telemetry-sinks", sinks]
    command += ["--telemetry-dir", str(home / "runs"), "telemetry.wandb.mode=offline", f"run_name={name}"]
    command += ["trainer.epochs=1", "data.samplers.train.batches_per_epoch=2"]
    began = time.time()
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=home, env=env, timeout=300)
    if done.returncode:
        raise SystemExit(f"{name} has failed:\n{done.stderr[-2000:]}")
    (run,) = (home / "runs").glob(f"{name}-*/journal-0.jsonl")
    records = JournalReader(run.parent).read(10, live=False)
    return min(record.time for record in records if isinstance(record, Scalars)) / 1e3 - began
