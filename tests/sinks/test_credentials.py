"""Credentials in texts and options reach no file and no server of any sink, with the real SDKs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from support.wandb_server import KEY, WandbServer
from telemetry import Metric, Settings, open_run
from telemetry.delivery.receipt import read_receipt

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore::pytest.PytestUnhandledThreadExceptionWarning",
        "ignore:The ``noload`` loader strategy is deprecated",
    ),
]

PLANTED = "pl4nted"
DATABASE = f"postgresql://me:{PLANTED}/x@db"
TAGS = {"note": f"--token {PLANTED}", "password": PLANTED, "database": DATABASE}


def record(run: Path, sink: str, **settings: Any) -> None:
    """Record a run with credentials in every text, as the command line of a careless trainer would."""
    metrics = {"train/loss": Metric(label=f"loss at https://h/?token={PLANTED}")}
    params = {"database": DATABASE, "argv": sys.argv, "pwd": PLANTED, "note": f"key {PLANTED}-environment"}
    with open_run(
        run,
        metrics=metrics,
        params=params,
        name=f"run of {PLANTED}-environment",
        sinks=[sink],
        settings=Settings(every=1, poll=0.05, **settings),
    ) as bus:
        bus.publish("train", 1, {"loss": 0.5})
        bus.alert(f"Authorization: Bearer {PLANTED}", f"Cookie: sid={PLANTED}", step=1)
        bus.close("failed", reason=f"no answer from https://h/x?sig={PLANTED}", timeout=60)
    (receipt,) = read_receipt(run).sinks
    assert (receipt.pending, receipt.progress.state) == (0, "closed"), receipt.lines()


def check_nothing_planted(folder: Path, *answers: object) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert PLANTED.encode() not in content, path
        assert KEY.encode() not in content, path
    assert PLANTED not in json.dumps(answers, default=str)


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_PASSWORD", f"{PLANTED}-environment")
    monkeypatch.setattr(sys, "argv", ["train", "--password", PLANTED])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("delivery", ["process", "thread"])
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_wandb(tmp_path: Path, wandb_server: WandbServer, mode: str, delivery: str) -> None:
    options = {"mode": mode, "tags": [TAGS["note"]], "notes": DATABASE, "group": DATABASE, "project": "p"}
    record(tmp_path / "run", "wandb", delivery=delivery, options={"wandb": options})
    runs = [(run.config, run.fields, run.files) for run in wandb_server.runs.values()]
    assert bool(runs) == (mode == "online")
    check_nothing_planted(tmp_path, runs, wandb_server.alerts)


@pytest.mark.slow
def test_mlflow(tmp_path: Path) -> None:
    options = {"tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}", "tags": TAGS, "run_name": f"password={PLANTED}"}
    record(tmp_path / "run", "mlflow", options={"mlflow": options})
    check_nothing_planted(tmp_path)


def test_tensorboard(tmp_path: Path) -> None:
    record(tmp_path / "run", "tensorboard")
    check_nothing_planted(tmp_path)
