"""Targets of the start: imports, ``--help``, and the first iteration."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from backends import Backends
from target import Target, at_most

from telemetry.reader import JournalReader
from telemetry.records import Scalars

IMPORT = "import time; t = time.perf_counter(); import telemetry; print(time.perf_counter() - t)"
COMMAND = Path(sys.executable).with_name("aimnet2mult")


def rows(home: Path, where: Backends, factor: float) -> list[Target]:
    """Measure them."""
    home.mkdir()
    times = max(3, round(9 * factor))
    imports = [float(_output([sys.executable, "-c", IMPORT])) for _ in range(times)]
    helps = [_seconds([str(COMMAND), "--help"]) for _ in range(times)]
    firsts = _firsts(home, where, max(2, round(5 * factor)))
    later = statistics.median(three - none for none, three in firsts)
    note = f"{statistics.median(none for none, _ in firsts):.2f} s with none"
    return [
        at_most("`import telemetry`", 100, statistics.median(imports) * 1e3, "ms"),
        at_most("`aimnet2mult --help`", 0.5, statistics.median(helps), "s"),
        at_most("first iteration, later with three sinks than with none", 0.1, later, "s", note),
    ]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    _output(command)
    return time.perf_counter() - began


def _firsts(home: Path, where: Backends, rounds: int) -> list[tuple[float, float]]:
    """Give, for each round, the seconds to the first iteration with none and with three sinks, in turns."""
    _output([str(COMMAND), "sample-data", str(home / "data")])
    found = []
    for number in range(rounds):
        pair = {}
        for sinks in ("none", "tensorboard,wandb,mlflow")[:: 1 if number % 2 else -1]:
            pair[sinks] = _first(home, where, sinks, f"{number}-{sinks.partition(',')[0]}")
        found.append((pair["none"], pair["tensorboard,wandb,mlflow"]))
    return found


def _first(home: Path, where: Backends, sinks: str, name: str) -> float:
    there = where.where("healthy", f"start-{name}")
    command = [
        str(COMMAND),
        "train",
        "--config",
        str(home / "data/train.yaml"),
        "--model",
        str(home / "data/model.yaml"),
    ]
    command += ["--threads", "1", "--telemetry-every", "1", "--telemetry-sinks", sinks]
    command += ["--telemetry-dir", str(home / name), "telemetry.wandb.mode=offline"]
    command += [
        f"telemetry.mlflow.tracking_uri={there['mlflow']}",
        f"telemetry.mlflow.experiment={there['experiment']}",
    ]
    command += ["trainer.epochs=1", "data.samplers.train.batches_per_epoch=2"]
    began = time.time()
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=home, timeout=300)
    if done.returncode:
        raise SystemExit(f"{name} has failed:\n{done.stderr[-2000:]}")
    (run,) = (home / name).glob("*/journal-0.jsonl")
    records = JournalReader(run.parent).read(10, live=False)
    return min(record.time for record in records if isinstance(record, Scalars)) / 1e3 - began
