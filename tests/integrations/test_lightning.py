"""TelemetryLogger in a Trainer of Lightning, next to Lightning's own logger."""

from __future__ import annotations

import argparse
import csv
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from telemetry import read_run
from telemetry.integrations.lightning import TelemetryLogger

# Lightning's advice on workers, loggers and SLURM, and its use of what other packages deprecate.
pytestmark = pytest.mark.filterwarnings("default")


class Line(pl.LightningModule):
    """Learns y = 2 x; fails at an iteration if told so."""

    def __init__(self, lr: float = 0.1, fail_at: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)
        self.fail_at = fail_at

    def training_step(self, batch: Any, _: int) -> Any:
        if self.global_step == self.fail_at:
            msg = "the sum is wrong"
            raise ArithmeticError(msg)
        loss = (self.layer(batch) - 2 * batch).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", (self.layer(batch) - 2 * batch).square().mean())

    def test_step(self, batch: Any, index: int) -> None:
        self.log("test/loss", (self.layer(batch) - 2 * batch).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])


DATA = torch.utils.data.DataLoader(torch.linspace(-1, 1, 40)[:, None], 4)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer(folder: Path, logger: Any, **options: Any) -> pl.Trainer:
    options = {"max_epochs": 2, "log_every_n_steps": 3, "enable_checkpointing": False} | options
    return pl.Trainer(
        default_root_dir=folder,
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **options,
    )


def points(run: Path) -> dict[str, dict[int, float]]:
    curves = read_run(run).curves.items()
    return {name: dict(zip(c.steps.tolist(), c.values.tolist(), strict=True)) for name, c in curves}


def csv_points(folder: Path) -> dict[str, dict[int, float]]:
    """Return the points of CSVLogger under the full names of telemetry."""
    names = {"val_loss": "val/loss"}
    found: dict[str, dict[int, float]] = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    stream = names.get(name) or f"train/{name.removeprefix('train_')}"
                    found.setdefault(stream, {})[int(row["step"])] = float(value)
    return found


def test_its_curves_are_those_of_lightnings_own_logger(tmp_path: Path) -> None:
    own = CSVLogger(tmp_path, "csv")
    logger = TelemetryLogger(tmp_path / "run", sinks=[])
    trainer(tmp_path, [own, logger]).fit(Line(), DATA, DATA)
    expected = csv_points(Path(own.log_dir))
    assert set(expected) == {"train/loss_step", "train/loss_epoch", "train/epoch", "val/loss"}
    assert points(tmp_path / "run") == expected
    read = read_run(tmp_path / "run")
    assert (read.status, read.header.attempt) == ("finished", 1)
    assert read.header.params == {"lr": 0.1, "fail_at": None}


def test_an_error_in_a_step_closes_the_run_as_failed_with_the_reason(tmp_path: Path) -> None:
    logger = TelemetryLogger(tmp_path / "run", sinks=[])
    with pytest.raises(ArithmeticError):
        trainer(tmp_path, logger).fit(Line(fail_at=7), DATA)
    (closed,) = (line for line in (tmp_path / "run" / "journal-0.jsonl").read_text().splitlines() if "closed" in line)
    assert '"status":"failed","reason":"ArithmeticError: the sum is wrong"' in closed
    assert list(points(tmp_path / "run")["train/loss_step"]) == [2, 5]


def test_fit_test_and_fit_again_are_attempts_of_one_run(tmp_path: Path) -> None:
    logger, model = TelemetryLogger(tmp_path / "run", sinks=[]), Line()
    host = trainer(tmp_path, logger)
    host.fit(model, DATA)
    host.test(model, DATA, verbose=False)
    host.fit_loop.max_epochs = 3
    host.fit(model, DATA)
    found = points(tmp_path / "run")
    assert list(found["train/loss_step"]) == [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]
    assert list(found["test/loss"]) == [20]
    assert read_run(tmp_path / "run").header.attempt == 3


def test_training_from_a_checkpoint_continues_the_run(tmp_path: Path) -> None:
    for epochs in (2, 4):
        logger = TelemetryLogger(tmp_path / "run", sinks=[], resume=True)
        saving = {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(save_last=True)]}
        last = None if epochs == 2 else "last"
        trainer(tmp_path, logger, max_epochs=epochs, **saving).fit(Line(), DATA, ckpt_path=last)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert list(points(tmp_path / "run")["train/loss_step"]) == list(range(2, 40, 3))
    assert not (tmp_path / "run-2").exists()


def test_a_second_training_gets_its_own_folder_with_its_checkpoints(tmp_path: Path) -> None:
    for _ in range(2):
        logger = TelemetryLogger(tmp_path / "run", sinks=[])
        trainer(tmp_path, logger, enable_checkpointing=True).fit(Line(), DATA)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    assert len(list((tmp_path / "run-2" / "checkpoints").iterdir())) == 1
    assert list(points(tmp_path / "run-2")["train/loss_step"]) == [2, 5, 8, 11, 14, 17]


def test_only_evaluating_records_the_evaluation(tmp_path: Path) -> None:
    trainer(tmp_path, TelemetryLogger(tmp_path / "run", sinks=[])).test(Line(), DATA, verbose=False)
    assert list(points(tmp_path / "run")) == ["test/loss", "test/epoch"] or set(points(tmp_path / "run")) == {
        "test/loss",
        "train/epoch",
    }


@pytest.mark.parametrize("params", [{"a": 1}, argparse.Namespace(a=1)], ids=["mapping", "namespace"])
def test_hyperparameters_in_any_form_before_and_after_the_first_value(tmp_path: Path, params: object) -> None:
    logger = TelemetryLogger(tmp_path / "run", sinks=[])
    logger.log_hyperparams(params)
    logger.log_metrics({"x": 1.0}, 0)
    logger.log_hyperparams({"b": {"c": torch.nn.ReLU()}})
    logger.finalize("success")
    assert read_run(tmp_path / "run").header.params == {"a": 1, "b": {"c": "ReLU()"}}


def test_experiment_opens_the_run_only_when_it_is_used(tmp_path: Path) -> None:
    logger = TelemetryLogger(tmp_path / "run", sinks=[])
    experiment = logger.experiment
    assert not (tmp_path / "run").exists()
    experiment.publish("train", 3, {"loss": np.float64(2.0)})
    logger.finalize("success")
    assert points(tmp_path / "run") == {"train/loss": {3: 2.0}}


def test_other_ranks_record_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = TelemetryLogger(tmp_path / "run", sinks=[])
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"x": 1.0}, 0)
    logger.experiment.publish("train", 3, {"loss": 1.0})
    logger.finalize("success")
    assert not (tmp_path / "run").exists()


def test_an_unpickled_logger_records_in_the_process_that_uses_it(tmp_path: Path) -> None:
    logger = TelemetryLogger(tmp_path / "run", sinks=[])
    logger.log_hyperparams({"a": 1})
    copy = pickle.loads(pickle.dumps(logger))  # noqa: S301 - its own data
    copy.log_metrics({"x": 1.0}, 0)
    copy.finalize("success")
    assert points(tmp_path / "run") == {"train/x": {0: 1.0}}
    assert read_run(tmp_path / "run").header.params == {"a": 1}


_BOTH = """
import sys, torch
{imports}
from telemetry.integrations.lightning import TelemetryLogger
{later}
class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, _):
        loss = self.layer(batch).square().mean()
        self.log("train_loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
logger = TelemetryLogger("run", sinks=[])
assert isinstance(logger, pl.loggers.Logger)
options = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, accelerator="cpu")
pl.Trainer(max_epochs=1, log_every_n_steps=2, logger=logger, **options).fit(
    Line(), torch.utils.data.DataLoader(torch.ones(8, 1), 1)
)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "later"),
    [("import pytorch_lightning as pl", ""), ("", "import pytorch_lightning as pl")],
    ids=["first", "later"],
)
def test_pytorch_lightning_works_as_well(tmp_path: Path, imports: str, later: str) -> None:
    code = _BOTH.format(imports=imports, later=later)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=120)
    assert list(points(tmp_path / "run")["train/loss"]) == [1, 3, 5, 7]


def test_it_is_a_logger_of_lightning(tmp_path: Path) -> None:
    logger = TelemetryLogger(tmp_path / "runs" / "x", sinks=[])
    assert isinstance(logger, Logger)
    assert (logger.name, logger.version, logger.save_dir) == ("x", "", str(tmp_path / "runs"))


def test_hyperparameters_without_any_value_are_recorded_once(tmp_path: Path) -> None:
    logger = TelemetryLogger(tmp_path / "run", sinks=[])
    for _ in range(2):
        logger.log_hyperparams({"a": 1})
        logger.finalize("success")
    read = read_run(tmp_path / "run")
    assert (read.header.params, read.header.attempt, read.curves) == ({"a": 1}, 1, {})


_TWO_PROCESSES = """
import sys, torch, lightning.pytorch as pl
from telemetry.integrations.lightning import TelemetryLogger
class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, _):
        loss = self.layer(batch).square().mean()
        self.log("train_loss", loss)
        return loss
    def test_step(self, batch, _):
        self.log("test_loss", self.layer(batch).square().mean())
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
if __name__ == "__main__":
    options = dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    options |= dict(accelerator="cpu", devices=2, strategy="ddp_spawn", max_epochs=1, log_every_n_steps=2)
    trainer = pl.Trainer(logger=TelemetryLogger("run", sinks=[]), **options)
    model, data = Line(), torch.utils.data.DataLoader(torch.ones(16, 1), 1)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
"""


@pytest.mark.slow
def test_fit_and_test_in_spawned_processes_are_attempts_of_one_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_TWO_PROCESSES)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, env=environment, check=True, timeout=240)
    assert not (tmp_path / "run-2").exists()
    assert list(points(tmp_path / "run")["train/loss"]) == [1, 3, 5, 7]
    assert "test/loss" in points(tmp_path / "run")
    assert read_run(tmp_path / "run").header.attempt == 2
