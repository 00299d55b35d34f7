"""Measure the start-up: imports, ``--help`` and the first iteration."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from targets import Target, at_most

from telemetry.journal.reader import JournalReader
from telemetry.records import Scalars

IMPORT = "import time; t = time.perf_counter(); import telemetry; print(time.perf_counter() - t)"
COMMAND = Path(sys.executable).with_name("aimnet2mult")
SINKS = {"none": "none", "three": "tensorboard,wandb,mlflow"}


def measure(home: Path, factor: float) -> list[Target]:
    """Measure the start; ``factor`` scales the number of repetitions."""
    home.mkdir()
    repetitions = max(3, round(9 * factor))
    imports = [float(_output([sys.executable, "-c", IMPORT])) for _ in range(repetitions)]
    helps = [_seconds([str(COMMAND), "--help"]) for _ in range(repetitions)]
    pairs = first_iterations(home, max(2, round(4 * factor)))
    # The minimum depends least on other load of the machine.
    none, three = (min(times) for times in zip(*pairs, strict=True))
    note = f"{none:.2f} s without sinks; fastest of {len(pairs)}"
    return [
        at_most("`import telemetry`", 100, statistics.median(imports) * 1e3, "ms"),
        at_most("`aimnet2mult --help`", 0.5, statistics.median(helps), "s"),
        at_most("delay of the first iteration by three sinks", 0.1, three - none, "s", note),
    ]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    _output(command)
    return time.perf_counter() - start


def first_iterations(home: Path, rounds: int) -> list[tuple[float, float]]:
    """Return the seconds until the first iteration, without sinks and with three, per round; the order alternates."""
    _output([str(COMMAND), "sample-data", str(home / "data")])
    # The first run creates the MLflow database and loads the modules into the page cache.
    _first_iteration(home, SINKS["three"], "warm-up")
    found = []
    for number in range(rounds):
        order = ("none", "three") if number % 2 else ("three", "none")
        pair = {name: _first_iteration(home, SINKS[name], f"{number}-{name}") for name in order}
        found.append((pair["none"], pair["three"]))
    return found


def _first_iteration(home: Path, sinks: str, name: str) -> float:
    # MLflow writes to its database directly: a server on this machine would compete for the cores.
    data = home / "data"
    command = [str(COMMAND), "train", "--config", str(data / "train.yaml"), "--model", str(data / "model.yaml")]
    command += ["--threads", "1", "--telemetry-every", "1", "--telemetry-sinks", sinks]
    command += ["--telemetry-dir", str(home / "runs"), "telemetry.wandb.mode=offline", f"run_name={name}"]
    command += ["trainer.epochs=1", "data.samplers.train.batches_per_epoch=2"]
    start = time.time()
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=home, env=env, timeout=300)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    (run,) = (home / "runs").glob(f"{name}-*/journal-0.jsonl")
    records = JournalReader(run.parent).read(10, live=False)
    return min(record.time for record in records if isinstance(record, Scalars)) / 1e3 - start
