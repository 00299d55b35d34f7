"""Deliveries begun by an earlier version are continued, and the backends show each record once."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.golden_runs import DELIVERED, Row, copy, delivered_rows, expected, output_of
from telemetry import read_receipt

Points = Counter[tuple[str, int, str]]
"""The number of occurrences of each point: full name, iteration, value as text."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return copies of the golden runs, without settings of the user."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    return copy(tmp_path)


def points_of(rows: Iterable[Row]) -> Points:
    return Counter((row.name, row.step, str(row.value)) for row in rows)


def sync(runs: Path, sink: str, *options: str) -> None:
    """Deliver the rest of ``water`` twice; the second time there is nothing left."""
    for _ in range(2):
        output_of("telemetry", "sync", runs / "water", "--telemetry-sinks", sink, *options)
        (receipt,) = [each for each in read_receipt(runs / "water").sinks if each.name == sink]
        assert (receipt.delivered, receipt.pending) == (len(expected("water")["seqs"]), 0)


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _requires_the_backend(self) -> None:
        pytest.importorskip("tensorboard")

    @staticmethod
    def events(folder: Path) -> Points:
        """Return all points in the event files, including those that TensorBoard hides."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        return Counter(
            (value.tag, event.step, str(value.tensor.float_val[0]))
            for path in sorted(folder.glob("events.out.tfevents.*"))
            for event in EventFileLoader(str(path)).Load()
            for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == "scalars" or value.tensor.float_val
        )

    @staticmethod
    def shown(folder: Path, tag: str) -> list[int]:
        """Return the iterations of a curve as shown by TensorBoard."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        return [event.step for event in accumulator.Scalars(tag)]

    def test_delivery_is_continued(self, runs: Path) -> None:
        folder = runs / "water" / "tensorboard"
        rows = [row._replace(value=float(np.float32(row.value))) for row in delivered_rows()]
        assert self.events(folder) == points_of(row for row in rows if row.seq <= DELIVERED)
        sync(runs, "tensorboard")
        assert self.events(folder) == points_of(rows)
        assert self.shown(folder, "train/loss") == list(range(10, 131, 10))
        assert self.shown(folder, "val/loss") == list(range(20, 121, 20))
        assert [path for path in folder.iterdir() if path.is_dir()] == []


class TestWandb:
    @pytest.fixture(autouse=True)
    def _requires_the_backend(self) -> None:
        pytest.importorskip("wandb")

    @staticmethod
    def records(folder: Path, kind: str) -> list[dict[str, Any]]:
        """Return the records of one kind in all files of the run, read by wandb-core."""
        import wandb

        core = Path(wandb.__file__).parent / "bin" / "wandb-core"
        found = []
        for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
            command = [core, "leet", "inspect", "-no-observability", "-json", "-run-file", path]
            out = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout
            found += [record[kind] for record in map(json.loads, out.splitlines()) if record["type"] == kind]
        return found

    def rows(self, folder: Path) -> list[dict[str, Any]]:
        return [history["item"] for history in self.records(folder, "history")]

    @staticmethod
    def points(rows: Iterable[dict[str, Any]]) -> Points:
        own = ("_", "trainer/", "telemetry/")
        return Counter(
            (name, row["trainer/iteration"], str(float(value)))
            for row in rows
            for name, value in row.items()
            if not name.startswith(own)
        )

    def test_delivery_is_continued(self, runs: Path) -> None:
        folder, rows = runs / "water", delivered_rows()
        assert self.points(self.rows(folder)) == points_of(row for row in rows if row.seq <= DELIVERED)
        sync(runs, "wandb", "-o", "wandb.mode=offline")
        found = self.rows(folder)
        assert self.points(found) == points_of(rows)
        assert [row["telemetry/seq"] for row in found] == sorted({row.seq for row in rows})
        assert [row["telemetry/attempt"] for row in found] == [
            {0: 1, 1: 2, 2: 2, 3: 3}[seq // 10**9] for seq in sorted({row.seq for row in rows})
        ]
        assert len(list(folder.glob("wandb/offline-run-*"))) == 2

    def test_a_run_of_a_sweep_is_continued_outside_the_agent(self, runs: Path) -> None:
        output_of("telemetry", "sync", runs / "swept", "--telemetry-sinks", "wandb", "-o", "wandb.mode=offline")
        found = self.records(runs / "swept", "run")
        assert {(run["run_id"], run["project"], run["entity"]) for run in found} == {("trial-1", "water", "chemists")}
        validations = [row for row in self.rows(runs / "swept") if "val/loss" in row]
        assert [row["trainer/iteration"] for row in validations] == [20, 40, 60, 60, 80]
        # The best one, at 60, is superseded.
        assert [row["best/val/loss"] for row in validations] == [6.0, 3.0, 0.5, 2.0, 1.5]


class TestMlflow:
    @pytest.fixture(autouse=True)
    def _requires_the_backend(self, runs: Path) -> None:
        """Create the database from its dump, and upgrade it if this MLflow is newer."""
        pytest.importorskip("mlflow")
        pytest.importorskip("sqlalchemy")
        dump = (runs / "mlflow.sql").read_text(encoding="utf-8")
        written_with = dump.partition("\n")[0].rpartition(" ")[2]
        if numbers(version("mlflow")) < numbers(written_with):
            pytest.skip(f"the database needs MLflow {written_with}; {version('mlflow')} is installed")
        with contextlib.closing(sqlite3.connect(runs / "mlflow.db")) as store:
            store.executescript(dump)
        if version("mlflow") != written_with:
            output_of("mlflow", "db", "upgrade", f"sqlite:///{runs / 'mlflow.db'}")

    @staticmethod
    def rows(runs: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(runs / "mlflow.db")) as store:
            return store.execute(f"SELECT {columns} FROM {table}").fetchall()  # noqa: S608 - both are literals

    def points(self, runs: Path) -> Points:
        """Return all points; an infinity is stored as NaN, with its sign in a metric ending in ``.inf``."""
        rows = self.rows(runs, "metrics", "key, step, value, is_nan")
        signs = {(key, step): value for key, step, value, _ in rows if key.endswith(".inf")}
        return Counter(
            (key, step, str(self.number(value, is_nan, signs.get((f"{key}.inf", step)))))
            for key, step, value, is_nan in rows
            if not key.endswith(".inf")
        )

    @staticmethod
    def number(value: float, is_nan: int, sign: float | None) -> float:
        if sign is not None:
            return sign * math.inf
        return math.nan if is_nan else value

    @pytest.mark.slow
    def test_delivery_is_continued(self, runs: Path) -> None:
        rows = delivered_rows()
        assert self.points(runs) == points_of(row for row in rows if row.seq <= DELIVERED)
        sync(runs, "mlflow")
        assert self.points(runs) == points_of(rows)
        ((status,),) = self.rows(runs, "runs", "status")
        assert status == "FAILED"
        tags = dict(self.rows(runs, "tags", "key, value"))
        assert tags["telemetry.seq"] == str(expected("water")["seqs"][-1])
        assert tags["telemetry.resumed.3"] == "from iteration 80"


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".") if part.isdecimal()]
