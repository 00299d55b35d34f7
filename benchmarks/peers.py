"""The variants of others: what people write today to see the RMSEs of a batch every 200 iterations.

Each takes (pace, home, where). RMSEs are those of ``plain_rmses``, computed when a point is due unless it says
otherwise. A run of MLflow goes to the experiment in MLFLOW_EXPERIMENT_NAME on the server in MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from batches import plain_rmses
from pace import Pace

Where = dict[str, Any]
Log = Callable[[dict[str, float], int], None]
Close = Callable[[], None]


def _floats(values: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def bare(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001 - as all
    """Log nothing."""
    for _ in pace.steps():
        pace.work()


def _when_due(pace: Pace, log: Log, close: Close, *, each: bool = False) -> None:
    """Log when it is due; ``each``: the RMSEs of every batch are brought to the host."""
    for step in pace.steps():
        batch = pace.work()
        if each:
            values = _floats(plain_rmses(batch))
            if step % pace.every == 0:
                log(values, step)
        elif step % pace.every == 0:
            log(_floats(plain_rmses(batch)), step)
    _close(pace, close)


def _close(pace: Pace, close: Close) -> None:
    began = time.perf_counter()
    close()
    pace.broadcast(closed=time.perf_counter() - began)


def _wandb(home: Path) -> tuple[Log, Close]:
    import wandb

    run = wandb.init(mode="offline", dir=str(home), project="bench", settings=wandb.Settings(console="off"))

    def close() -> None:
        run.finish()
        wandb.teardown()

    return lambda values, step: run.log(values, step=step), close


def item_wandb(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001
    """Bring the RMSEs of every batch to the host; log to wandb offline when due."""
    _when_due(pace, *_wandb(home), each=True)


def due_wandb(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001
    """Log to wandb offline."""
    _when_due(pace, *_wandb(home))


def due_tensorboard(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001
    """Log to TensorBoard by torch's SummaryWriter."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(home / "tensorboard"))

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    _when_due(pace, log, writer.close)


def due_mlflow(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001
    """Log to MLflow's server."""
    import mlflow

    mlflow.start_run()
    _when_due(pace, lambda values, step: mlflow.log_metrics(values, step=step), mlflow.end_run)


def async_mlflow(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001
    """Log to MLflow's server, asynchronously."""
    import mlflow

    mlflow.start_run()

    def log(values: dict[str, float], step: int) -> None:
        mlflow.log_metrics(values, step=step, synchronous=False)

    _when_due(pace, log, mlflow.end_run)


def bare_ignite(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001
    """Run ignite's engine without loggers."""
    from ignite.engine import Engine

    Engine(lambda _engine, _batch: pace.work()).run(range(pace.total), max_epochs=1, epoch_length=pace.total)


def ignite(pace: Pace, home: Path, where: Where) -> None:
    """Run ignite's engine with its three loggers."""
    from ignite.engine import Engine, Events
    from ignite.handlers.mlflow_logger import MLflowLogger
    from ignite.handlers.tensorboard_logger import TensorboardLogger
    from ignite.handlers.wandb_logger import WandBLogger

    trainer = Engine(lambda _engine, _batch: pace.work())
    due = Events.ITERATION_COMPLETED(every=pace.every)

    @trainer.on(due)
    def _measure(engine: Engine) -> None:
        engine.state.metrics = {
            name.removeprefix("train/"): value for name, value in _floats(plain_rmses(engine.state.output)).items()
        }

    loggers = [
        TensorboardLogger(log_dir=str(home / "tensorboard")),
        WandBLogger(mode="offline", dir=str(home), project="bench"),
        MLflowLogger(tracking_uri=where["mlflow"]),
    ]
    for logger in loggers:
        logger.attach_output_handler(trainer, due, tag="train", metric_names="all")
    trainer.run(range(pace.total), max_epochs=1, epoch_length=pace.total)
    _close(pace, lambda: [logger.close() for logger in loggers])


def accelerate(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001
    """Log by accelerate's three trackers."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with=["tensorboard", "wandb", "mlflow"], project_dir=str(home))
    accelerator.init_trackers("bench", init_kwargs={"wandb": {"mode": "offline", "dir": str(home)}})
    _when_due(pace, lambda values, step: accelerator.log(values, step=step), accelerator.end_training)


def _lightning(pace: Pace, home: Path, loggers: list[Any] | bool) -> Any:
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, _batch: torch.Tensor, _index: int) -> None:
            batch = pace.work()
            if loggers:
                self.log_dict(plain_rmses(batch))

        def configure_optimizers(self) -> None:
            return None

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=pace.total,
        logger=loggers,
        log_every_n_steps=pace.every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(home),
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.zeros(pace.total, 1)))


def bare_lightning(pace: Pace, home: Path, where: Where) -> None:  # noqa: ARG001
    """Run Lightning's trainer without loggers."""
    _lightning(pace, home, loggers=False)


def lightning(pace: Pace, home: Path, where: Where) -> None:
    """Call log_dict in every step of Lightning's trainer, with its three loggers."""
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    loggers = [
        TensorBoardLogger(str(home)),
        WandbLogger(offline=True, save_dir=str(home), project="bench"),
        MLFlowLogger(experiment_name=where["experiment"], tracking_uri=where["mlflow"]),
    ]
    _lightning(pace, home, loggers)
    import wandb

    def close() -> None:
        wandb.finish()
        wandb.teardown()

    _close(pace, close)
