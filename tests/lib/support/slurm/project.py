"""A folder with the files of a training, as a user submits it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from aimnet2mult.config.merge import write_yaml
from support.slurm.cluster import LONG, Job, eventually, submit
from support.slurm.counts import train_points
from support.slurm.scripts import batch_script, without_gpus
from support.tiny_runs import write_data
from telemetry import read_receipt

PACE = 0.02
"""Minimum seconds of an iteration."""
BIN = Path(sys.executable).parent


class Project:
    """A folder with data, settings and an empty MLflow store.

    Args:
        folder: an empty folder.
        mlflow: a store to copy.
    """

    def __init__(self, folder: Path, mlflow: Path) -> None:
        self.folder = folder
        self.environment = _environment()
        self.jobs: list[Job] = []
        write_data(folder / "a.h5", 16, 0)
        (folder / "model.yaml").write_text("class: support.tiny_model.TinyCore\n")
        (folder / "runs").mkdir()
        shutil.copy(mlflow, folder / "runs" / "mlflow.db")

    def submit(
        self, *options: str, iterations: int, heading: str = "One node", arguments: str = "", **telemetry: Any
    ) -> Job:
        """Submit a script of the page, with further options of sbatch and arguments of the training.

        Args:
            options: options of sbatch, which take precedence over those of the script.
            iterations: iterations of the training.
            heading: heading of the script.
            arguments: further arguments of ``aimnet2mult train``.
            telemetry: settings of telemetry.
        """
        write_yaml(self.folder / "train.yaml", _settings(iterations, telemetry))
        script = self.folder / "job.sh"
        script.write_text(without_gpus(batch_script(heading)).replace("--resume auto", f"--resume auto {arguments}"))
        self.jobs.append(submit(script, "--cpus-per-task=1", *options, environment=self.environment))
        return self.jobs[-1]

    def runs(self) -> list[Path]:
        """Return the run folders, oldest first."""
        found = [path.parent for path in self.folder.glob("runs/*/journal-0.jsonl")]
        return sorted(found, key=lambda path: (len(path.name), path.name))

    @property
    def run(self) -> Path:
        """The only run."""
        (run,) = self.runs()
        return run

    def wait_for_points(self, number: int) -> None:
        """Wait until each run has a number of points in its journal."""
        eventually(lambda: self.runs() and all(len(train_points(run)) >= number for run in self.runs()))

    def wrap_trainer(self, command: str) -> None:
        """Let the shell command ``command TRAINER ARGUMENTS`` start the trainer."""
        wrapper = self.folder / "bin" / "aimnet2mult"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/bash\n{command} {BIN / "aimnet2mult"} "$@"\n')
        wrapper.chmod(0o755)
        self.environment["PATH"] = os.pathsep.join([str(wrapper.parent), self.environment["PATH"]])

    def sync(self) -> str:
        """Deliver what is pending, as a user does on the login node, and return the output."""
        command = [str(BIN / "telemetry"), "sync", str(self.run)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self) -> str | None:
        """Return how the run ended."""
        return read_receipt(self.run).status


def _settings(iterations: int, telemetry: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_name": "lab",
        "threads": 1,
        "device": "cpu",
        "data": {
            "fidelity_datasets": {0: "a.h5"},
            "y": ["energy", "charges"],
            "val_fraction": 0.25,
            "samplers": {"train": {"batch_size": 4, "batches_per_epoch": iterations // 10}},
        },
        "loss": {"class": "support.slurm.paced.PacedLoss", "kwargs": {"pace": PACE}},
        "optimizer": {"class": "torch.optim.Adam", "kwargs": {"lr": 0.001}, "param_groups": {"shifts": None}},
        "trainer": {"epochs": 10},
        "telemetry": {
            "sinks": ["tensorboard", "mlflow"],
            "every": 1,
            "system": 0,
            "poll": 0.5,
            "drain_timeout": 60,
            **telemetry,
        },
    }


def _environment() -> dict[str, str]:
    names = ("SLURM_", "TELEMETRY_", "WANDB_", "MLFLOW_")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(names) or n == "SLURM_CONF"}
    return {
        **kept,
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "AIMNET2MULT_ALLOW_PACKAGE": "support",
        "OMP_NUM_THREADS": "1",
    }
