"""The variants of the training loop, with their loggers and the condition of their backends."""

from __future__ import annotations

from typing import NamedTuple

TB, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"
THREE = (TB, WANDB, MLFLOW)


class Variant(NamedTuple):
    """One variant.

    Attributes:
        title: name of the variant on the page.
        sinks: backends that it logs to, and from which its points are read back.
        function: name of its function in ``other_loggers``; None for this package.
        backend: condition of the backend: ``healthy``, ``slow`` (MLflow answers after 300 ms), ``refusing``,
            ``silent`` (accepts connections but never answers), or ``suspended`` (the delivery processes are stopped
            with SIGSTOP).
        base: name of the variant whose times are subtracted.
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
    "three-slow": Variant("this package, three sinks, MLflow with 300 ms latency", THREE, backend="slow"),
    "three-refusing": Variant("this package, three sinks, MLflow refuses connections", THREE, backend="refusing"),
    "three-silent": Variant("this package, three sinks, MLflow never answers", THREE, backend="silent"),
    "three-suspended": Variant("this package, three sinks, deliveries suspended", THREE, backend="suspended"),
    "item-wandb": Variant("`.item()` for every batch, wandb offline", (WANDB,), "item_wandb"),
    "due-wandb": Variant("wandb offline, at due points", (WANDB,), "due_wandb"),
    "due-tensorboard": Variant("SummaryWriter, at due points", (TB,), "due_tensorboard"),
    "due-mlflow": Variant("mlflow.log_metrics, at due points", (MLFLOW,), "due_mlflow"),
    "due-mlflow-slow": Variant(
        "mlflow.log_metrics, at due points, 300 ms latency", (MLFLOW,), "due_mlflow", backend="slow"
    ),
    "async-mlflow": Variant("mlflow.log_metrics, asynchronous, at due points", (MLFLOW,), "async_mlflow"),
    "accelerate": Variant("accelerate.log, three trackers, at due points", THREE, "accelerate"),
    "bare-ignite": Variant("ignite engine without loggers", function="bare_ignite"),
    "ignite": Variant("ignite engine with three loggers, at due points", THREE, "ignite"),
    "bare-lightning": Variant("Lightning trainer without loggers", function="bare_lightning"),
    "lightning": Variant(
        "Lightning log_dict for every batch, three loggers", THREE, "lightning", base="bare-lightning"
    ),
}
