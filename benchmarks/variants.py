"""All variants of the loop, by name: what each does, to which backends, and what these do."""

from __future__ import annotations

from typing import NamedTuple

TB, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"
THREE = (TB, WANDB, MLFLOW)


class Variant(NamedTuple):
    """One variant.

    Attributes:
        title: how the page calls it.
        sinks: where its points are read back from; ``journal`` stands for the run folder.
        function: of ``peers``; None: it is ours.
        backend: ``healthy``, ``slow`` (MLflow answers after 300 ms), ``refusing``, ``silent`` (takes connections and
            never answers), or ``frozen`` (the deliveries are stopped by SIGSTOP).
        base: the variant whose times are taken off.
    """

    title: str
    sinks: tuple[str, ...] = ()
    function: str | None = None
    backend: str = "healthy"
    base: str = "bare"


VARIANTS = {
    "bare": Variant("bare loop", function="bare"),
    "none": Variant("this package, no sink"),
    "one": Variant("this package, TensorBoard", (TB,)),
    "three": Variant("this package, three sinks", THREE),
    "three-slow": Variant("this package, three sinks, MLflow 300 ms away", THREE, backend="slow"),
    "three-refusing": Variant("this package, three sinks, MLflow refuses connections", THREE, backend="refusing"),
    "three-silent": Variant("this package, three sinks, MLflow never answers", THREE, backend="silent"),
    "three-frozen": Variant("this package, three sinks, deliveries frozen", THREE, backend="frozen"),
    "item-wandb": Variant("`.item()` of every batch, wandb offline", (WANDB,), "item_wandb"),
    "due-wandb": Variant("wandb offline, when due", (WANDB,), "due_wandb"),
    "due-tensorboard": Variant("SummaryWriter, when due", (TB,), "due_tensorboard"),
    "due-mlflow": Variant("mlflow.log_metrics, when due", (MLFLOW,), "due_mlflow"),
    "due-mlflow-slow": Variant("mlflow.log_metrics, when due, 300 ms away", (MLFLOW,), "due_mlflow", backend="slow"),
    "async-mlflow": Variant("mlflow.log_metrics, asynchronous, when due", (MLFLOW,), "async_mlflow"),
    "accelerate": Variant("accelerate.log, three trackers, when due", THREE, "accelerate"),
    "bare-ignite": Variant("ignite's engine alone", function="bare_ignite"),
    "ignite": Variant("ignite's engine and three loggers, when due", THREE, "ignite"),
    "bare-lightning": Variant("Lightning's trainer alone", function="bare_lightning"),
    "lightning": Variant(
        "Lightning's log_dict of every batch, three loggers", THREE, "lightning", base="bare-lightning"
    ),
}
