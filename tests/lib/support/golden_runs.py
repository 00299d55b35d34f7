"""The golden runs: writable copies, expected contents, and the commands, found by their entry points."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from telemetry import Metric

V1 = Path(__file__).parents[2] / "data" / "golden-runs" / "v1"
NAMES = ("water", "killed", "trained", "reporting", "skipping", "scheduled", "swept", "evaluated", "large", "media")

ENERGY: dict[str, Any] = {"unit": "kcal/mol", "source_unit": "eV/particle"}
METRICS = {
    "train/loss": Metric(label="loss"),
    "train/E_rmse": Metric(**ENERGY, label="RMSE of energy"),
    "val/loss": Metric(label="loss", watch=True),
    "val/gfn1/E_rmse": Metric(**ENERGY, label="RMSE of energy, gfn1", watch=True),
}
"""The metrics declared by the runs ``water`` and ``killed``."""
DELIVERED = 2_000_000_007
"""The last record of ``water`` that its sinks have; the third attempt is still to be delivered."""


class Row(NamedTuple):
    """A line of an expected table."""

    seq: int
    stream: str
    step: int
    time: int
    name: str
    value: float
    unit: str
    superseded: bool


def copy(folder: Path) -> Path:
    """Return a writable copy of all golden runs."""
    return shutil.copytree(V1, folder / "v1")


def expected(name: str) -> dict[str, Any]:
    """Return the notes made when the run was recorded."""
    content: dict[str, Any] = json.loads((V1 / "expected" / f"{name}.json").read_text(encoding="utf-8"))
    return content


def expected_rows(name: str) -> list[Row]:
    """Return all values of a run, in the order of its journal."""
    with (V1 / "expected" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return [
            Row(
                int(row["seq"]),
                row["stream"],
                int(row["step"]),
                int(row["time"]),
                row["name"],
                float(row["value"]),
                row["unit"],
                row["superseded"] == "True",
            )
            for row in csv.DictReader(file)
        ]


def delivered_rows() -> list[Row]:
    """Return the values of ``water`` that a sink has once everything is delivered.

    What the third attempt has superseded was delivered before; what the second has superseded never was.
    """
    return [row for row in expected_rows("water") if not row.superseded or row.seq > 10**9]


def run_command(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``telemetry`` or ``aimnet2mult`` and return how it ended."""
    (found,) = entry_points(group="console_scripts", name=name)
    code = f"import sys; from {found.module} import {found.attr}; sys.argv[0] = {name!r}; sys.exit({found.attr}())"
    return subprocess.run(
        # -P: the packages that are installed, not those in the current folder.
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def output_of(name: str, *arguments: object, **environment: str) -> str:
    """Run a command that must succeed and return what it printed."""
    done = run_command(name, *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
