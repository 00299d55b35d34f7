"""One training run in four backends at once, each read back and compared with the journal point by point."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.cli.sample_data import SAMPLE
from aimnet2mult.config.merge import write_yaml
from telemetry import RunRecord, read_header, read_receipt
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Scalars
from telemetry.testing import Point

pytest.importorskip("wandb")
pytest.importorskip("mlflow")
pytest.importorskip("telemetry_sink_csv", reason="pip install ./examples/telemetry-sink-csv")

from support.mlflow_kit import IGNORE_NOLOAD, client_of, only_run, quiet
from support.mlflow_kit import points as mlflow_points
from support.tensorboard_contract import TensorBoardKit
from support.wandb_kit import config as wandb_config
from support.wandb_kit import points as wandb_points
from support.wandb_kit import rows as wandb_rows

pytestmark = IGNORE_NOLOAD

SINKS = "wandb,tensorboard,mlflow,csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with slices of the sample data, small enough for three epochs in a second."""
    folder = tmp_path_factory.mktemp("slices")
    for name in ("gfn1.h5", "spgfn2.h5"):
        with h5py.File(SAMPLE / name) as whole, h5py.File(folder / name, "w") as part:
            for size in ("003", "004"):
                for key, values in whole[size].items():
                    part[f"{size}/{key}"] = values[:40]
    content: dict[str, Any] = {
        "run_name": "slices",
        "project_name": "four-sinks",
        "threads": 1,
        "device": "cpu",
        "data": {
            "fidelity_datasets": {0: "gfn1.h5", 1: "spgfn2.h5"},
            "fidelity_names": {0: "gfn1", 1: "spgfn2"},
            "samplers": {"train": {"batch_size": 8, "batches_per_epoch": 7}, "val": {"batch_size": 16}},
        },
        "trainer": {"epochs": 3},
        "telemetry": {"every": 5},
    }
    write_yaml(folder / "train.yaml", content)
    return folder


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep settings of the user from changing the destinations."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def train(data: Path, runs: Path, sinks: str) -> Path:
    command = [sys.executable, "-m", "aimnet2mult.train.cli", "--config", data / "train.yaml"]
    command += ["--model", SAMPLE / "model.yaml", "--telemetry-dir", runs, "--telemetry-sinks", sinks]
    subprocess.run([*command, "telemetry.drain_timeout=100"], check=True, timeout=240, cwd=data)
    (run,) = (folder for folder in runs.iterdir() if (folder / "journal-0.jsonl").exists())
    return run


def journaled(run: Path) -> set[tuple[Any, ...]]:
    header = read_header(run)
    records = JournalReader(run).read(100_000, live=False)
    points = [
        Point(name, record.step, value, record.time, header.metrics[name].unit)
        for record in records
        if isinstance(record, Scalars)
        for name, value in record.items()
    ]
    assert len(points) > 200
    return comparable(points)


def comparable(points: Iterable[Point]) -> set[tuple[Any, ...]]:
    """Return the points as a set in which NaN equals itself; fail if a point occurs twice."""
    listed = [tuple("NaN" if isinstance(x, float) and math.isnan(x) else x for x in point) for point in points]
    assert len(listed) == len(set(listed))
    return set(listed)


def csv_points(run: Path) -> Iterable[Point]:
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Point(row["name"], int(row["step"]), float(row["value"]), int(row["time"]), row["unit"])


def check_all(run: Path) -> None:
    """Compare what each backend shows with the journal: names, steps, values, times and units."""
    expected = journaled(run)
    assert comparable(wandb_points(wandb_rows(run), wandb_config(run)["telemetry/units"])) == expected
    with quiet():
        client = client_of(f"sqlite:///{run.parent}/mlflow.db")
        mlflow_run = only_run(client)
        assert comparable(mlflow_points(client, mlflow_run)) == expected
    assert mlflow_run.info.status == "FINISHED"
    assert comparable(csv_points(run)) == expected
    narrow = {(name, step, float(np.float32(value)), *rest) for name, step, value, *rest in expected}
    assert comparable(TensorBoardKit().read_back(run)) == narrow


def check_receipt(run: Path, header: RunRecord) -> None:
    receipt = read_receipt(run)
    assert receipt.status == "finished"
    assert header.params["run_name"] == "slices"
    states = [(s.name, s.delivered, s.pending, s.progress.state) for s in receipt.sinks]
    count = receipt.journaled
    assert states == [(name, count, 0, "closed") for name in ("csv", "mlflow", "tensorboard", "wandb")]


def test_four_backends_at_once_show_the_same_points_as_the_journal(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "runs", SINKS)
    check_receipt(run, read_header(run))
    check_all(run)


def test_a_run_trained_without_sinks_is_delivered_to_all_of_them_later(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "runs", "none")
    assert not read_receipt(run).sinks
    sync = [sys.executable, "-m", "telemetry", "sync", run, "--telemetry-sinks", SINKS]
    subprocess.run(sync, check=True, timeout=120, cwd=tmp_path)
    check_receipt(run, read_header(run))
    check_all(run)
    # A second delivery changes nothing.
    subprocess.run(sync, check=True, timeout=120, cwd=data)
    check_receipt(run, read_header(run))
    check_all(run)
