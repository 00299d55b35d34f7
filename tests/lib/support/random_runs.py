"""Trainings with random settings in forked processes, which can be killed at any moment of a training.

Forking saves the import of torch and aimnet, and lets SIGKILL act as it does on a cluster. As a program, the module
compares trainings: ``python -m support.random_runs FOLDER SEED...``.
"""

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml

from aimnet2mult import cli
from aimnet2mult.models.checkpoint_folder import best_path
from aimnet2mult.train import checkpoint_file, checkpointing, engine, loop, validation
from aimnet2mult.train.evaluation_pass import EvaluationPass
from aimnet2mult.train.evaluations import Evaluations
from aimnet2mult.train.final_test import FinalTest
from support.file_contents import read_content
from support.plain_runs import PLAIN
from support.small_models import definition
from support.tiny_runs import newest_checkpoint
from telemetry import MetricBus
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Scalars

__all__ = ["End", "Outcome", "Training", "compare", "draw", "outcome"]

MOMENTS: Sequence[tuple[Any, str]] = (
    (loop.Training, "_complete_iteration"),
    (loop.Training, "_complete_epoch"),
    (checkpointing, "write_checkpoint"),
    (checkpoint_file, "atomic_write"),
    (checkpointing.Checkpointing, "_prune"),
    (checkpointing.Checkpointing, "save"),
    (validation, "save_weights"),
    (validation.Validation, "run"),
    (EvaluationPass, "_record_skipped"),
    (EvaluationPass, "run"),
    (Evaluations, "complete_epoch"),
    (Evaluations, "repeat_pending"),
    (FinalTest, "run"),
    (MetricBus, "publish"),
    (MetricBus, "publish_group"),
    (MetricBus, "flush"),
    (MetricBus, "close"),
    (engine, "to_device"),
)
"""Functions before and after whose calls a training can be ended."""


class _Ended(Exception):
    """The end of a process by an error of the program."""


@dataclass(frozen=True)
class End:
    """The end of a process: at a moment, counted from 1, by a signal, or by an error if that is None."""

    moment: int
    signal: int | None


class Training:
    """A training of a small model in a folder of its own, as a sequence of processes.

    Args:
        folder: the folder, which is created, with ``runs`` for the run folders.
        words: arguments of ``aimnet2mult train``.
    """

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        folder.mkdir(parents=True)
        self.log, self.runs, self._words = folder / "log", folder / "runs", [*words, f"telemetry.dir={folder / 'runs'}"]

    @property
    def run(self) -> Path:
        """The newest run folder: a run that fails before its first checkpoint is not continued by ``auto``."""
        return max(self.runs.iterdir(), key=lambda path: (len(path.name), path.name))

    def train(self, *words: str, end: End | None = None) -> int:
        """Train in a process, and return its exit code, or the negative number of a signal."""
        pid = os.fork()
        if not pid:
            self._train_here([*self._words, *words], end)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _train_here(self, words: Sequence[str], end: End | None) -> None:
        code = 70
        try:
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for number in (sys.stdout.fileno(), sys.stderr.fileno()):
                os.dup2(file, number)
            moments = _count_moments(end)
            try:
                cli.run(cli.cli, "aimnet2mult", ["train", *words])
                code = 0
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            self.log.with_name("moments").write_text(str(moments()))
        except BaseException:  # noqa: BLE001 - the process must end here
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    @property
    def moments(self) -> int:
        """Number of moments of the last process that was not killed."""
        return int(self.log.with_name("moments").read_text())


def _count_moments(end: End | None) -> Callable[[], int]:
    count = 0

    def pass_moment() -> None:
        nonlocal count
        count += 1
        if end is not None and count == end.moment:
            if end.signal is None:
                raise _Ended
            os.kill(os.getpid(), end.signal)

    def with_moments(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            pass_moment()
            result = function(*arguments, **named)
            pass_moment()
            return result

        return call

    for owner, name in MOMENTS:
        setattr(owner, name, with_moments(getattr(owner, name)))
    return lambda: count


@dataclass(frozen=True)
class Outcome:
    """What a training leaves behind."""

    points: dict[tuple[str, int], list[dict[str, float]]]
    """Values by stream and iteration, without the speed."""
    checkpoint: dict[str, Any]
    best: dict[str, Any] | None
    saved: dict[str, Any] | None

    def differences(self, other: "Outcome") -> list[str]:
        """Return what differs in another outcome, bit by bit."""
        found = [
            f"{stream} at {step}: {self.points.get((stream, step))} instead of {other.points.get((stream, step))}"
            for stream, step in sorted({*self.points, *other.points})
            if repr(self.points.get((stream, step))) != repr(other.points.get((stream, step)))
        ]
        for name in ("checkpoint", "best", "saved"):
            found += _differences(name, getattr(self, name), getattr(other, name))
        return found


def outcome(training: Training) -> Outcome:
    """Return what a finished training has left behind."""
    points: dict[tuple[str, int], list[dict[str, float]]] = {}
    for record in JournalReader(training.run).read(100_000, live=False):
        if isinstance(record, Scalars):
            values = {name: value for name, value in sorted(record.values.items()) if name != "it_per_s"}
            points.setdefault((record.stream, record.step), []).append(values)
    checkpoint = read_content(newest_checkpoint(training.run))
    best, saved = best_path(training.run), training.log.with_name("final.pt")
    return Outcome(
        points,
        {name: checkpoint[name] for name in ("parts", "position", "random")},
        read_content(best) if best.exists() else None,
        read_content(saved) if saved.exists() else None,
    )


def _differences(name: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        names = [*one, *(key for key in other if key not in one)]
        return [line for key in names for line in _differences(f"{name}.{key}", one.get(key), other.get(key))]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return [line for index, pair in enumerate(pairs) for line in _differences(f"{name}.{index}", *pair)]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
    else:
        same = repr(one) == repr(other)
    return [] if same else [f"{name}: {one!r:.200} instead of {other!r:.200}"]


def write_data(path: Path, structures: int, seed: int, *, labels: Sequence[str]) -> Path:
    """Write random structures of two sizes, some of which lack labels."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for atoms in (3, 4):
            group, line = file.create_group(f"{atoms:03d}"), np.arange(atoms)[:, None] * [1.2, 0.0, 0.0]
            group["coord"] = line + 0.1 * rng.normal(size=(structures, atoms, 3))
            group["numbers"] = rng.choice([1, 6, 8], size=(structures, atoms))
            shapes = {"energy": (), "forces": (atoms, 3), "charges": (atoms,), "spin_charges": (atoms,)}
            for label in labels:
                values = rng.normal(size=(structures, *shapes[label]))
                values[rng.random(structures) < 0.2] = np.nan
                group[label] = values
    return path


def draw(chance: random.Random, folder: Path) -> list[str]:
    """Write data and a model to a folder, and return the arguments of a random training."""
    folder.mkdir(parents=True)
    real = chance.random() < 0.4
    labels = ("energy", "forces", "charges", "spin_charges") if real else ("energy", "charges")
    words = _draw_data(chance, folder, labels)
    has_validation = not any(word == "data.val_fraction=0" for word in words)
    model = definition() if real else {"class": "support.tiny_model.TinyCore", "kwargs": {"dropout": 0.2}}
    (folder / "model.yaml").write_text(yaml.safe_dump(model, sort_keys=False))
    words += ["--model", str(folder / "model.yaml"), "--allow-package", "support", "--threads", "1"]
    words += [] if real else ["optimizer.param_groups.shifts=null"]
    words += _draw_loss(chance, labels)
    words += _draw_schedule(chance, has_validation=has_validation)
    words += _draw_trainer(chance, real=real, has_validation=has_validation)
    return words


def _maybe(chance: random.Random, *choices: str, probability: float = 0.5) -> list[str]:
    return [chance.choice(choices)] if chance.random() < probability else []


def _draw_data(chance: random.Random, folder: Path, labels: Sequence[str]) -> list[str]:
    # Several fidelities need an AIMNet2.
    fidelities = chance.choice([1, 2]) if len(labels) > 2 else 1
    words = [f"seed={chance.randrange(100)}", "run_name=random", "device=cpu", "telemetry.sinks=none", *PLAIN]
    for number in range(fidelities):
        some = labels if not number or chance.random() < 0.5 else labels[:1]
        words.append(f"data.fidelity_datasets.{number}={write_data(folder / f'{number}.h5', 12, number, labels=some)}")
    words.append(f"data.y=[{', '.join(labels)}]" if chance.random() < 0.7 else "data.on_missing_label=drop")
    words.append(chance.choice(["data.val_fraction=0", *["data.val_fraction=0.25"] * 3]))
    if chance.random() < 0.6:
        test = write_data(folder / "test.h5", 4, 9, labels=labels)
        words.append(chance.choice(["data.test_fraction=0.2", f"data.test_fidelity_datasets.0={test}"]))
    words.append(f"data.samplers.train.batch_size={chance.choice([4, 5, 8])}")
    words.append(f"data.samplers.val.batch_size={chance.choice([2, 3, 100])}")
    if chance.random() < 0.2:
        words += ["data.samplers.train.batch_mode=atoms", "data.samplers.train.batch_size=24"]
    words += _maybe(chance, "data.samplers.train.batches_per_epoch=3", probability=0.3)
    words += _maybe(chance, "data.fidelity_weights.0=2", probability=0.2)
    words += _maybe(chance, "data.loaders.train.num_workers=1", "data.loaders.val.num_workers=1", probability=0.05)
    return words


def _draw_loss(chance: random.Random, labels: Sequence[str]) -> list[str]:
    kind = chance.choice(["constant", "changing", "adaptive"])
    words = [] if kind == "adaptive" else _maybe(chance, "trainer.micro_batches=2", "trainer.micro_batches=3")
    if kind == "changing":
        words.append("loss.kwargs.components.energy.weight=[[0, 0.1], [7, 1.0]]")
    if kind == "adaptive":
        module = "aimnet2mult.train"
        words += [f"loss.class={module}.adaptive_loss.MTAdaWLoss", "loss.kwargs.eta=0.01"]
        for name in labels:
            words.append(f"loss.kwargs.components.{name}={{weight: 1.0, scale: 1.5, {_function(name)}}}")
    return words


def _function(label: str) -> str:
    module = "aimnet2mult.train.loss"
    if label == "energy":
        return f"fn: {module}.energy_loss_fn"
    return f"fn: {module}.peratom_loss_fn, kwargs: {{key_true: {label}, key_pred: {label}}}"


def _draw_schedule(chance: random.Random, *, has_validation: bool) -> list[str]:
    torchs, ignites = "torch.optim.lr_scheduler", "ignite.handlers"
    warm_up = f"{{class: {torchs}.LinearLR, kwargs: {{start_factor: 0.01, total_iters: 4}}}}"
    cosine = f"{{class: {torchs}.CosineAnnealingLR, kwargs: {{T_max: 9}}}}"
    exponential = f"{{class: {torchs}.ExponentialLR, kwargs: {{gamma: 0.9}}}}"
    linear = f"{{class: {ignites}.PiecewiseLinear, kwargs: {{milestones_values: [[0, 0.0], [5, 1.0e-2]]}}}}"
    cyclic = (
        f"{{class: {ignites}.CosineAnnealingScheduler, kwargs: {{start_value: 1.0e-2, end_value: 0.0, cycle_size: 6}}}}"
    )
    every = chance.choice(["iteration", "epoch", *(["val"] if has_validation else [])])
    choices = [
        "null",
        (
            f"{{class: {torchs}.SequentialLR, step: {every}, "
            f"kwargs: {{schedulers: [{warm_up}, {cosine}], milestones: [4]}}}}"
        ),
        f"{{class: {torchs}.ChainedScheduler, step: {every}, kwargs: {{schedulers: [{warm_up}, {exponential}]}}}}",
        f"{{class: {ignites}.ConcatScheduler, kwargs: {{schedulers: [{linear}, {cyclic}], durations: [5]}}}}",
        (
            f"{{class: {ignites}.create_lr_scheduler_with_warmup, kwargs: {{lr_scheduler: {cosine}, "
            "warmup_start_value: 0.0, warmup_duration: 4}}"
        ),
        f"{{class: {torchs}.OneCycleLR, step: iteration, kwargs: {{max_lr: 0.02, total_steps: 60}}}}",
    ]
    if has_validation:
        choices.append(f"{{class: {torchs}.ReduceLROnPlateau, metric_name: E_rmse, kwargs: {{patience: 0}}}}")
    optimizer = chance.choice(
        [
            "{class: torch.optim.Adam, kwargs: {lr: 0.01}}",
            "{class: torch.optim.SGD, kwargs: {lr: 0.01, momentum: 0.9}}",
            "{class: torch.optim.AdamW, kwargs: {lr: 0.02, amsgrad: true}}",
        ]
    )
    return [f"scheduler={chance.choice(choices)}", f"optimizer={optimizer}"]


def _draw_trainer(chance: random.Random, *, real: bool, has_validation: bool) -> list[str]:
    words = [f"trainer.epochs={chance.choice([2, 3, 4])}", f"telemetry.every={chance.choice([1, 2, 3, 5, 100])}"]
    words += _maybe(chance, "trainer.evaluate_train_every=1", "trainer.evaluate_train_every=2")
    words += _maybe(chance, "trainer.ema_decay=0.5", "trainer.ema_decay=0.9")
    words += _maybe(chance, "trainer.precision=float64", *["trainer.precision=bfloat16"] * real, probability=0.4)
    words += _maybe(chance, "trainer.stop_below_lr=0.006", "trainer.stop_below_lr=0.0001", probability=0.4)
    words += _maybe(chance, "trainer.time_limit=1h", probability=0.2)
    words += _maybe(chance, "trainer.on_bad_step=stop", probability=0.2)
    words += _maybe(chance, "checkpoint.every_iterations=1", "checkpoint.every_iterations=2")
    words += _maybe(chance, "checkpoint.every_minutes=1.0e-4", probability=0.2)
    words += _maybe(chance, "checkpoint.keep=1", probability=0.3)
    if has_validation:
        words += _maybe(chance, *(f"checkpoint.best={name}" for name in ("loss", "E_rmse", "q_mae", "E_r2")))
        if chance.random() < 0.5:
            words.append(f"trainer.early_stopping.metric={chance.choice(['loss', 'E_mae', 'q_r2'])}")
            words.append(f"trainer.early_stopping.patience={chance.choice([1, 2])}")
            words += _maybe(chance, "trainer.early_stopping.min_delta=0.05")
        words += _maybe(chance, "log_frequency.val=1", "log_frequency.val=2", "log_frequency.val=5")
    return words


SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGTERM, None)


def interrupted(chance: random.Random, training: Training, moments: int, *, lives: int = 3) -> list[str]:
    """Train with up to ``lives`` interruptions to the end; return what happened, for messages."""
    story: list[str] = []
    for life in range(20):
        kind = chance.choice(SIGNALS)
        end = None if life >= lives else End(chance.randrange(1, moments + 1), kind)
        words: list[str] = []
        if training.runs.exists() and any(training.runs.iterdir()):
            resume = chance.choice(["auto", "auto", str(training.run)])
            words = ["--resume", resume]
        code = training.train(*words, end=end)
        story.append(f"{' '.join(words)} {end}: {code}")
        if code == 0:
            return story
        if end is None:
            raise AssertionError(f"{story}\n{training.log.read_text()}")
    raise AssertionError(story)


def compare(seed: int, folder: Path) -> list[str]:
    """Compare a random training that was interrupted with one that was not; return the differences."""
    chance = random.Random(seed)
    words = draw(chance, folder / "input")
    whole = Training(folder / "whole", [*words, "--save", str(folder / "whole" / "final.pt")])
    code = whole.train()
    if code:
        return [f"exit code {code}", *whole.log.read_text().splitlines(), " ".join(words)]
    parts = Training(folder / "parts", [*words, "--save", str(folder / "parts" / "final.pt")])
    story = interrupted(chance, parts, whole.moments)
    expected, found = outcome(whole), outcome(parts)
    differences = found.differences(expected)
    if differences:
        differences += [*story, " ".join(words)]
    return differences


def main() -> None:
    """Compare the random trainings with the seeds given as arguments, in the folder given first."""
    torch.set_num_threads(1)
    folder, *seeds = sys.argv[1:]
    failed = False
    for seed in seeds:
        for line in compare(int(seed), Path(folder) / seed):
            failed = True
            sys.stdout.write(f"seed {seed}: {line}\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
