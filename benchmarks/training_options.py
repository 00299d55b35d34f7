"""Measure what precision, averaged weights and batches in parts cost and change, on the sample data.

``python benchmarks/training_options.py [speed] [errors] [training] [memory]`` prints tables in Markdown, by default
all. Times are CPU times on one thread, so that other processes matter little.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from memory import rss
from torch import Tensor

from aimnet2mult.config.merge import read_yaml
from aimnet2mult.config.schema import load
from aimnet2mult.models.definition import DEFAULT, read_definition
from aimnet2mult.models.precision import use_bfloat16, use_float64
from aimnet2mult.train.components import Components, build_components
from aimnet2mult.train.engine import build_trainer
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Scalars

SAMPLE = Path(__file__).parent.parent / "aimnet2mult" / "sample"
VARIANTS: dict[str, tuple[str, ...]] = {
    "float32": (),
    "float64": ("trainer.precision=float64",),
    "bfloat16": ("trainer.precision=bfloat16",),
    "average": ("trainer.ema_decay=0.99",),
    "2 parts": ("trainer.micro_batches=2",),
    "4 parts": ("trainer.micro_batches=4",),
}
MODELS = {"sample": SAMPLE / "model.yaml", "default": DEFAULT}
BLOCK, ROUNDS = {"sample": 20, "default": 2}, 9
"""Steps per block by model, and blocks of each variant."""
ITERATIONS = 1000
TRAINED = ("float32", "float64", "bfloat16", "average")
PARTS = (1, 2, 4, 8)
LABELS = ("energy", "forces", "charges", "spin_charges")


def build(model: Path, *overrides: str) -> tuple[Any, Components]:
    """Return the settings and components of a run on the sample data."""
    config = load([SAMPLE / "train.yaml"], ["telemetry.sinks=none", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        return config, build_components(config, read_definition(model), Path(folder))


def make_step(model: Path, *overrides: str) -> Any:
    """Return a function that trains for a number of steps."""
    config, components = build(model, *overrides)
    given = config.trainer
    engine = build_trainer(
        components.model,
        components.optimizer,
        components.loss_fn,
        components.train_sums,
        device=components.device,
        clip_norm=given.clip_grad_norm,
        micro_batches=given.micro_batches,
        average=components.average,
    )
    batches = [batch for batch, _ in zip(components.train_loader, range(20), strict=False)]

    def run(steps: int) -> None:
        engine.run([batches[number % len(batches)] for number in range(steps)], max_epochs=1)

    return run


def speed(variants: Mapping[str, tuple[str, ...]]) -> None:
    """Print the CPU time of a step in blocks that alternate between the variants."""
    print("| model | option | ms per step | relative |\n|---|---|---|---|")
    for name, model in MODELS.items():
        steps = {variant: make_step(model, *overrides) for variant, overrides in variants.items()}
        for step in steps.values():
            step(2 * BLOCK[name])
        times: dict[str, list[float]] = {variant: [] for variant in variants}
        for number in range(ROUNDS):
            order = list(steps) if number % 2 else list(reversed(steps))
            for variant in order:
                before = time.process_time()
                steps[variant](BLOCK[name])
                times[variant].append((time.process_time() - before) / BLOCK[name])
        for variant, each in times.items():
            relative = median(one / base for one, base in zip(each, times["float32"], strict=True))
            print(f"| {name} | {variant} | {1e3 * median(each):.1f} | {relative:.2f} |", flush=True)


def predict(components: Components, *, training: bool = False) -> dict[str, Any]:
    """Return the predictions of all validation structures as flat arrays."""
    components.model.train(training)
    found: dict[str, list[Any]] = {label: [] for label in LABELS}
    assert components.val is not None
    for x, _ in components.val.loader:
        pred: dict[str, Tensor] = components.model(dict(x))
        for label in LABELS:
            found[label].append(pred[label].detach().double().numpy().ravel())
    return {label: np.concatenate(parts) for label, parts in found.items()}


def errors() -> None:
    """Print the rounding errors of the predictions of a trained model, compared with float64."""
    print("| precision | E (meV) | F (meV/Å) | q (me) | spin q (me) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        run = train_run(Path(folder))
        config, components = build(MODELS["sample"], f"load={run / 'checkpoints' / 'best.pt'}")
        single = predict(components)
        state = components.model.state_dict()
        use_bfloat16(components.model)
        half = predict(components, training=True)
        _, components = build(MODELS["sample"])
        components.model.load_state_dict(state)
        use_float64(components.model)
        double = predict(components)
    del config
    for name, pred in (("float32", single), ("bfloat16, as in training", half)):
        rmse = [1e3 * np.sqrt(np.mean((pred[label] - double[label]) ** 2)) for label in LABELS]
        print(f"| {name} | {' | '.join(f'{value:.2g}' for value in rmse)} |", flush=True)


def train_run(folder: Path, *overrides: str) -> Path:
    """Train on the sample data and return the run folder."""
    epochs = f"trainer.epochs={ITERATIONS // 200}"
    given = ["telemetry.sinks=none", f"telemetry.dir={folder}", "checkpoint.best=loss", epochs, *overrides]
    # Its messages are no part of the tables.
    with redirect_stdout(sys.stderr):
        train(Request(configs=[SAMPLE / "train.yaml"], model=MODELS["sample"], overrides=given))
    (run,) = folder.iterdir()
    return run


def training(variants: Mapping[str, tuple[str, ...]]) -> None:
    """Print the validation errors after training on the sample data."""
    print("| option | E (kcal/mol) | F (kcal/mol/Å) | q (e) | spin q (e) |\n|---|---|---|---|---|")
    for variant, overrides in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            records = JournalReader(train_run(Path(folder), *overrides)).read(100_000, live=False)
        last = [record.values for record in records if isinstance(record, Scalars) and record.stream == "val"][-1]
        values = [last[name] for name in ("E_rmse", "F_rmse", "q_rmse", "s_rmse") if name in last]
        print(f"| {variant} | {' | '.join(f'{value:.4g}' for value in values)} |", flush=True)


def memory() -> None:
    """Print the memory of a step with a large batch by the number of parts, each in its own process."""
    print("| parts | memory of a step (MB) |\n|---|---|")
    for parts in PARTS:
        command = [sys.executable, __file__, "measure-memory", str(parts)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        print(f"| {parts} | {json.loads(out.splitlines()[-1]):.0f} |", flush=True)


def measure_memory(parts: int) -> None:
    """Print the growth of the largest resident memory of this process in two steps, in MB."""
    step = make_step(MODELS["default"], "data.samplers.train.batch_size=256", f"trainer.micro_batches={parts}")
    before = rss()
    step(2)
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps(int(peak.split()[1]) / 1024 - before))


def main(arguments: Sequence[str]) -> None:
    """Print the tables that are named, by default all."""
    torch.set_num_threads(1)
    if arguments[:1] == ["measure-memory"]:
        measure_memory(int(arguments[1]))
        return
    tables = {
        "speed": lambda: speed(VARIANTS),
        "errors": errors,
        "training": lambda: training({name: VARIANTS[name] for name in TRAINED}),
        "memory": memory,
    }
    print(f"torch {torch.__version__}, {read_yaml(SAMPLE / 'train.yaml')['run_name']} data")
    for name in arguments or tables:
        print(f"\n{name}\n")
        tables[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
