"""The values of an iteration that schedules change: learning rates and weights of the loss."""

from collections.abc import Callable, Mapping

from torch import nn
from torch.optim import Optimizer

from aimnet2mult.config.schema import Config
from aimnet2mult.metrics.declarations import lr_metric, weight_metric
from aimnet2mult.metrics.error_sums import Snapshot
from aimnet2mult.train.engine import LossFunction
from aimnet2mult.train.loss import MTLoss
from aimnet2mult.train.optimizer import group_indices

__all__ = ["ScheduledValues", "lr_groups"]


class ScheduledValues:
    """The learning rates and the weights of the loss, by metric.

    Args:
        optimizer: the optimizer.
        lr_groups: position of each parameter group with a metric of its own.
        loss_fn: the loss function.
    """

    def __init__(self, optimizer: Optimizer, lr_groups: Mapping[str, int], loss_fn: LossFunction | None) -> None:
        self._optimizer = optimizer
        self._groups = {lr_metric(name): index for name, index in lr_groups.items()}
        self._loss = loss_fn if isinstance(loss_fn, MTLoss) else None

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of the first group, and those of named groups as far as they differ from it."""
        groups = self._optimizer.param_groups
        main = float(groups[0]["lr"])
        named = {name: float(groups[index]["lr"]) for name, index in self._groups.items()}
        return {"lr": main, **{name: rate for name, rate in named.items() if rate != main}}

    def loss_weights(self) -> Callable[[], dict[str, float]]:
        """Start copying the weights of the loss, if they change; return a function that waits for the copy."""
        if self._loss is None or self._loss.current_weights is None:
            return dict
        names, copied = self._loss.terms.names, Snapshot(self._loss.current_weights.double())
        return lambda: {weight_metric(name): float(value) for name, value in zip(names, copied.wait(), strict=True)}


def lr_groups(config: Config, model: nn.Module) -> dict[str, int]:
    """Return the positions of the parameter groups whose learning rates have metrics of their own."""
    overrides = {name: group for name, group in config.optimizer.param_groups.items() if group is not None}
    indices = group_indices(model, overrides)
    return {name: indices[name] for name in config.lr_groups if name in indices}
