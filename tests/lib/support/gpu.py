"""Trainings of the sample on a GPU, or on the CPU as a rehearsal."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import h5py
import torch
from ignite.engine import Engine
from torch import Tensor

from aimnet2mult.config.schema import Config, load
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_consensus import StopConsensus
from aimnet2mult.distributed.stop_signal import StopSignal
from aimnet2mult.metrics.declarations import declare
from aimnet2mult.train.bad_steps import BadSteps
from aimnet2mult.train.components import Components, build_components
from aimnet2mult.train.console import NullConsole
from aimnet2mult.train.loop import Training
from aimnet2mult.train.loss import MTLoss
from aimnet2mult.train.reporter import Reporter
from support.aimnet2_batches import COMPONENTS, DEFINITION, SAMPLE
from support.plain_runs import PLAIN
from telemetry import Metric, MetricBus, Settings, open_run

EVERY = 10
"""Iterations between points."""


def write_data(folder: Path, rows: int = 64) -> list[Path]:
    """Write a few sizes of the sample data; the labels of some structures are missing."""
    paths = []
    for name in ("gfn1", "spgfn2"):
        with h5py.File(SAMPLE / f"{name}.h5") as source, h5py.File(folder / f"{name}.h5", "w") as file:
            for size in ("003", "004", "005"):
                for key, values in source[size].items():
                    if key != "_id":
                        file[f"{size}/{key}"] = values[:rows]
                file[f"{size}/forces"][::4] = math.nan
        paths.append(folder / f"{name}.h5")
    return paths


def build(folder: Path, device: torch.device, *overrides: str) -> tuple[Config, Components]:
    """Return configuration and components of a training of two epochs of 40 iterations, with all options."""
    folder.mkdir(exist_ok=True)
    files = [f"data.fidelity_datasets.{index}={path}" for index, path in enumerate(write_data(folder))]
    options = [
        *files,
        f"device={device.type}",
        "data.samplers.train={batch_size: 16, batches_per_epoch: 40}",
        "trainer={epochs: 2, clip_grad_norm: 0.5, clip_grad_value: 1.0, ema_decay: 0.9}",
        "telemetry.sinks=none",
        *PLAIN,
        f"telemetry.dir={folder / 'runs'}",
    ]
    config = load([SAMPLE / "train.yaml"], [*options, *overrides])
    return config, build_components(config, DEFINITION, folder)


class Loop:
    """The real loop with a bus, without evaluations and checkpoints, which wait for the device.

    Args:
        folder: a folder for the run.
        device: the device.
        overrides: further settings.
        settings: the settings of telemetry; by default, no sinks, and a point every `EVERY` iterations.
    """

    def __init__(self, folder: Path, device: torch.device, *overrides: str, settings: Settings | None = None) -> None:
        self.config, self.components = build(folder, device, *overrides)
        components, names = self.components, self.config.fidelity_names
        metrics = declare(components.labels, names, {}, components.train_sums.layout.loss.names)
        self.bus: MetricBus = open_run(
            folder / "run",
            metrics={
                name: Metric(unit=info.unit, source_unit=info.source_unit, label=info.text)
                for name, info in metrics.items()
            },
            settings=settings or Settings(sinks=(), every=EVERY),
        )
        communicator = Communicator()
        fake: Any = _NoEvaluations()
        self.training = Training(
            self.config,
            components,
            reporter=Reporter(
                self.bus,
                train_sums=components.train_sums,
                labels=components.labels,
                fidelity_names=names,
                optimizer=components.optimizer,
                loss_fn=components.loss_fn,
            ),
            evaluations=fake,
            checkpointing=fake,
            bad_steps=BadSteps(self.config.trainer, lambda _: "a structure"),
            bus=self.bus,
            communicator=communicator,
            consensus=StopConsensus(StopSignal(), communicator, has_diverged=lambda: False),
            console=NullConsole(),
        )

    @property
    def engine(self) -> Engine:
        """The engine of the training, to which handlers can be added."""
        return self.training._trainer

    def run(self) -> str:
        """Train, close the run, and return how the training ended."""
        outcome = self.training.run()
        self.bus.close()
        return outcome.kind


class _NoEvaluations:
    """A stand-in for evaluations and checkpoints that does nothing."""

    pending, problem, stop_reason = False, "", ""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: True


class WatchedLoss(MTLoss):
    """The loss, with calls before each training batch: of `before` with the number of the batch, counted from 1."""

    before: ClassVar[Callable[[int], None]] = staticmethod(lambda _: None)

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            self.number = getattr(self, "number", 0) + 1
            WatchedLoss.before(self.number)
        return super().__call__(y_pred, y_true)


@contextmanager
def watching(before: Callable[[int], None]) -> Iterator[str]:
    """Call a function before each training batch; give the setting that a training needs for it."""
    WatchedLoss.before = staticmethod(before)
    try:
        yield "loss=" + json.dumps({"class": "support.gpu.WatchedLoss", "kwargs": {"components": COMPONENTS}})
    finally:
        WatchedLoss.before = staticmethod(lambda _: None)


def fill_memory(device: torch.device) -> None:
    """Ask for more memory than any machine has."""
    torch.empty(1 << 52, dtype=torch.uint8, device=device)
