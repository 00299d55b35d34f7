"""Measure on the sample data how fine-tuning to a second fidelity changes the errors of the first one.

``python benchmarks/fine_tuning.py FOLDER`` trains a model on GFN1-xTB, then continues it with few spin-polarized
GFN2-xTB structures in several ways, and prints the table of docs/how-to/fine-tuning.md. Takes about ten minutes on one
core; ``FOLDER`` keeps the data and the runs, and runs in it are not repeated.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import yaml

import aimnet2mult
from telemetry import read_run

SAMPLE = Path(aimnet2mult.__file__).parent / "sample"
OLD, NEW = "gfn1", "spgfn2"
ITERATIONS, TUNING = 1500, 600
"""Iterations of the first training, and of each one that continues it."""
EVERY = 10
"""One in ten structures of the new fidelity is trained; one in ten of each is validated."""
SHARED = r"afv|conv_|\.mlps\."
"""The parameters that all fidelities share, and the embedding."""
FROZEN = f"optimizer.force_no_train=['{SHARED}']"
SLOW = f"optimizer.param_groups.shared={{re: '{SHARED}', lr: 2.0e-4}}"


def subset(name: str, part: str, remainder: int) -> str:
    """Write every tenth structure, or all others if ``remainder`` is negative, to a file, and return its path."""
    path = Path(part + f"-{name}.h5").resolve()
    with h5py.File(SAMPLE / f"{name}.h5") as file, h5py.File(path, "w") as target:
        for key, group in file.items():
            rows = np.arange(len(group["coord"]))
            chosen = rows % EVERY == remainder if remainder >= 0 else rows % EVERY != 0
            if chosen.any():
                for label, values in group.items():
                    target[f"{key}/{label}"] = values[chosen]
    return str(path)


def settings(names: list[str], iterations: int) -> dict[str, object]:
    """Return the settings of a run."""
    return {
        "run_name": "run",
        "threads": 1,
        "device": "cpu",
        "telemetry": {"every": 100, "sinks": "none"},
        "data": {
            "fidelity_datasets": {i: f"train-{name}.h5" for i, name in enumerate(names)},
            "val_fidelity_datasets": {i: f"val-{name}.h5" for i, name in enumerate(names)},
            "fidelity_names": dict(enumerate(names)),
            "y": ["energy", "forces", "charges"],
            "samplers": {"train": {"batch_size": 32, "batches_per_epoch": iterations}, "val": {"batch_size": 256}},
        },
        "loss": {"kwargs": {"components": {"forces": {"weight": 2.0}, "charges": {"weight": 10.0}}}},
        "optimizer": {"class": "torch.optim.Adam", "kwargs": {"lr": 2.0e-3}},
        "scheduler": {
            "class": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "kwargs": {"T_max": iterations},
            "step": "iteration",
        },
        "trainer": {"epochs": 1, "clip_grad_value": None, "clip_grad_norm": 0.3},
    }


def train(title: str, names: list[str], iterations: int, *overrides: str) -> Path:
    """Train, unless the folder has this run, and return the run folder."""
    folder = Path(title.replace(" ", "-").replace(",", ""))
    if not list(folder.glob("run-*/checkpoints/step-*.pt")):
        config = Path(f"{folder}.yaml")
        config.write_text(yaml.safe_dump(settings(names, iterations)))
        command = [sys.executable, "-m", "aimnet2mult.train.cli", "--config", str(config)]
        command += ["--model", str(SAMPLE / "model.yaml"), f"telemetry.dir={folder}", *overrides]
        with Path(f"{folder}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return next(folder.glob("run-*"))


def errors(run: Path, name: str) -> str:
    """Return the last validation errors of a fidelity, as two cells of a table."""
    curves = read_run(run).curves
    found = [curves.get(f"val/{name}/{metric}") or curves.get(f"val/{metric}") for metric in ("E_rmse", "F_rmse")]
    return " | ".join(f"{curve.values[-1]:.2f}" for curve in found if curve is not None)


def main() -> None:
    """Train all variants and print the table."""
    for name, training in ((OLD, -1), (NEW, 1)):
        subset(name, "train", training)
        subset(name, "val", 0)
    first = train("gfn1 alone", [OLD], ITERATIONS)
    load = [f"load={first.resolve()}"]
    both = [OLD, NEW]
    print("| training | gfn1: energy | forces | spgfn2: energy | forces |\n|---|---|---|---|---|")
    print(f"| gfn1 alone | {errors(first, OLD)} | - | - |")
    alone = train("spgfn2 alone", [NEW], TUNING)
    print(f"| spgfn2 alone, from random weights | - | - | {errors(alone, NEW)} |")
    variants = {
        "no replay": ["data.fidelity_weights={0: 0, 1: 1}"],
        "no replay, shared layers frozen": ["data.fidelity_weights={0: 0, 1: 1}", FROZEN],
        "no replay, shared layers slow": ["data.fidelity_weights={0: 0, 1: 1}", SLOW],
        "replay 0.1": ["data.fidelity_weights={0: 0.1, 1: 0.9}"],
        "replay 0.5": ["data.fidelity_weights={0: 0.5, 1: 0.5}"],
        "replay 0.5, shared layers slow": ["data.fidelity_weights={0: 0.5, 1: 0.5}", SLOW],
    }
    for title, overrides in variants.items():
        run = train(title, both, TUNING, *load, *overrides)
        print(f"| {title} | {errors(run, OLD)} | {errors(run, NEW)} |", flush=True)


if __name__ == "__main__":
    import os

    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    os.chdir(sys.argv[1])
    main()
