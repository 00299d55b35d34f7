"""Variants with other loggers: typical code that logs the RMSEs of a batch every 200 iterations.

Each variant takes the timer, the folder of the variant and the destination. It computes ``plain_rmses``, only at due
points unless stated otherwise. MLflow runs belong to the experiment in MLFLOW_EXPERIMENT_NAME on the server in
MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from iteration_time import IterationTimer
from workload import plain_rmses

Destination = dict[str, Any]
Log = Callable[[dict[str, float], int], object]
Close = Callable[[], object]


def _floats(values: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def bare(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001 - all variants have the same signature
    """Log nothing."""
    for _ in timer.steps():
        timer.run_step()


def _log_at_due_points(timer: IterationTimer, log: Log, close: Close, *, every_batch: bool = False) -> None:
    """Log at due points; with ``every_batch``, copy the RMSEs of every batch to the CPU."""
    for step in timer.steps():
        batch = timer.run_step()
        if every_batch:
            values = _floats(plain_rmses(batch))
            if step % timer.every == 0:
                log(values, step)
        elif step % timer.every == 0:
            log(_floats(plain_rmses(batch)), step)
    _close(timer, close)


def _close(timer: IterationTimer, close: Close) -> None:
    start = time.perf_counter()
    close()
    timer.report(close_seconds=time.perf_counter() - start)


def _wandb(home: Path) -> tuple[Log, Close]:
    import wandb

    run = wandb.init(mode="offline", dir=str(home), project="bench", settings=wandb.Settings(console="off"))

    def close() -> None:
        run.finish()
        wandb.teardown()

    return lambda values, step: run.log(values, step=step), close


def item_wandb(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001
    """Copy the RMSEs of every batch to the CPU; log to wandb offline at due points."""
    _log_at_due_points(timer, *_wandb(home), every_batch=True)


def due_wandb(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001
    """Log to wandb offline."""
    _log_at_due_points(timer, *_wandb(home))


def due_tensorboard(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001
    """Log to TensorBoard with torch's SummaryWriter."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(home / "tensorboard"))

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    _log_at_due_points(timer, log, writer.close)


def due_mlflow(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001
    """Log to an MLflow server."""
    import mlflow

    mlflow.start_run()
    _log_at_due_points(timer, lambda values, step: mlflow.log_metrics(values, step=step), mlflow.end_run)


def async_mlflow(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001
    """Log to an MLflow server asynchronously."""
    import mlflow

    mlflow.start_run()

    def log(values: dict[str, float], step: int) -> None:
        mlflow.log_metrics(values, step=step, synchronous=False)

    _log_at_due_points(timer, log, mlflow.end_run)


def bare_ignite(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001
    """Run an ignite engine without loggers."""
    from ignite.engine import Engine

    Engine(lambda _engine, _batch: timer.run_step()).run(range(timer.total), max_epochs=1, epoch_length=timer.total)


def ignite(timer: IterationTimer, home: Path, destination: Destination) -> None:
    """Run an ignite engine with three of its loggers."""
    from ignite.engine import Engine, Events
    from ignite.handlers.mlflow_logger import MLflowLogger
    from ignite.handlers.tensorboard_logger import TensorboardLogger
    from ignite.handlers.wandb_logger import WandBLogger

    trainer = Engine(lambda _engine, _batch: timer.run_step())
    due = Events.ITERATION_COMPLETED(every=timer.every)

    @trainer.on(due)
    def _compute(engine: Engine) -> None:
        output: Any = engine.state.output
        engine.state.metrics = {
            name.removeprefix("train/"): value for name, value in _floats(plain_rmses(output)).items()
        }

    loggers = [
        TensorboardLogger(log_dir=str(home / "tensorboard")),
        WandBLogger(mode="offline", dir=str(home), project="bench"),
        MLflowLogger(tracking_uri=destination["mlflow"]),
    ]
    for logger in loggers:
        logger.attach_output_handler(trainer, due, tag="train", metric_names="all")
    trainer.run(range(timer.total), max_epochs=1, epoch_length=timer.total)

    def close() -> None:
        for logger in loggers:
            logger.close()

    _close(timer, close)


def accelerate(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001
    """Log with three trackers of accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with=["tensorboard", "wandb", "mlflow"], project_dir=str(home))
    accelerator.init_trackers("bench", init_kwargs={"wandb": {"mode": "offline", "dir": str(home)}})
    _log_at_due_points(timer, lambda values, step: accelerator.log(values, step=step), accelerator.end_training)


def _lightning(timer: IterationTimer, home: Path, loggers: list[Any] | bool) -> Any:
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, _batch: torch.Tensor, _index: int) -> None:
            batch = timer.run_step()
            if loggers:
                self.log_dict(plain_rmses(batch))

        def configure_optimizers(self) -> None:
            return None

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=timer.total,
        logger=loggers,
        log_every_n_steps=timer.every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(home),
    )
    batches: Any = torch.zeros(timer.total, 1)
    trainer.fit(Module(), torch.utils.data.DataLoader(batches))


def bare_lightning(timer: IterationTimer, home: Path, destination: Destination) -> None:  # noqa: ARG001
    """Run the Lightning trainer without loggers."""
    _lightning(timer, home, loggers=False)


def lightning(timer: IterationTimer, home: Path, destination: Destination) -> None:
    """Call log_dict in every step of the Lightning trainer, with three of its loggers."""
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    loggers = [
        TensorBoardLogger(str(home)),
        WandbLogger(offline=True, save_dir=str(home), project="bench"),
        MLFlowLogger(experiment_name=destination["experiment"], tracking_uri=destination["mlflow"]),
    ]
    _lightning(timer, home, loggers)
    import wandb

    def close() -> None:
        wandb.finish()
        wandb.teardown()

    _close(timer, close)
