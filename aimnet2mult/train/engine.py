"""The ignite engines: one training step and one validation step.

Nothing here reads a value from a GPU, so training never waits for it: the error sums stay on the device, and `reporter`
publishes them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.metrics.batch_rmse import BatchRmse
from aimnet2mult.metrics.masks import is_mask
from aimnet2mult.models.known_padding import knowing_padding
from aimnet2mult.quantities import Label
from aimnet2mult.train.averaged_weights import AveragedWeights
from aimnet2mult.train.gradient import Batch, LossFunction, build_gradient
from aimnet2mult.train.guarded_step import GuardedStep, guarded_step

__all__ = [
    "Batch",
    "LossFunction",
    "Sums",
    "build_trainer",
    "build_validator",
    "epoch_length",
    "to_device",
    "total_iterations",
]


class Sums(Protocol):
    """An accumulator of the errors of batches on the device, such as `ErrorSums`."""

    @property
    def labels(self) -> Sequence[Label]:
        """The labels that can occur."""
        ...

    def update(
        self,
        pred: Mapping[str, Tensor],
        true: Mapping[str, Tensor],
        numbers: Tensor,
        fidelity: Tensor,
        loss: Mapping[str, Tensor] | None = None,
        *,
        applied: Tensor | None = None,
    ) -> None:
        """Add the errors of a batch; see `ErrorSums.update`."""
        ...

    def batch_rmse(self) -> dict[str, float]:
        """Return the RMSE of each label over the last batch; see `ErrorSums.batch_rmse`."""
        ...

    def find_finite(self, pred: Mapping[str, Tensor], true: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Return which structures have finite predictions; see `ErrorSums.find_finite`."""
        ...


def epoch_length(engine: Engine) -> int:
    """Return the number of iterations per epoch, which a trainer always has (ignite declares it optional)."""
    return cast("int", engine.state.epoch_length)


def total_iterations(engine: Engine) -> int:
    """Return the number of iterations of the whole run."""
    return cast("int", engine.state.max_epochs) * epoch_length(engine)


def build_trainer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFunction,
    sums: Sums,
    *,
    device: torch.device,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    communicator: Communicator | None = None,
    micro_batches: int = 1,
    average: AveragedWeights | None = None,
    make_step: Callable[[torch.optim.Optimizer, torch.device], GuardedStep] = guarded_step,
) -> Engine:
    """Return an engine that trains on batches of (inputs, labels).

    A step is applied only if loss and gradient are finite, on all ranks or on none. After a step, ``engine.state``
    holds neither the batch nor the output, but two scalars on the device, ``state.grad_norm``, the gradient norm before
    clipping, and ``state.applied``, whether the step was applied; and ``state.batch_rmse``, the `BatchRmse` of the
    batch.

    Args:
        model: the model to train; with several ranks, each trains it on its share of the batch.
        optimizer: optimizer that steps once per batch.
        loss_fn: loss function, whose ``loss`` is minimized.
        sums: accumulator of the errors of each batch.
        device: device to which batches are moved.
        clip_value: maximum absolute value of a gradient component.
        clip_norm: maximum norm of the gradient.
        communicator: communicator of the ranks that share each batch; by default, a single process.
        micro_batches: number of parts in which a batch is processed; several need less memory, see `build_gradient`.
        average: average of the weights to update after each step that is applied.
        make_step: function of optimizer and device that returns the step to use.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    add_gradient = build_gradient(model, loss_fn, communicator or Communicator(), micro_batches)
    apply_step = make_step(optimizer, device)

    def step(engine: Engine, batch: Batch) -> None:
        known = knowing_padding(batch[0]["numbers"], device)
        batch = to_device(batch, device)
        engine.state.batch = None
        optimizer.zero_grad(set_to_none=True)
        with known:
            batch, (pred, losses) = add_gradient(batch)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        applied = norm.isfinite()
        engine.state.grad_norm, engine.state.applied = norm, applied  # type: ignore[attr-defined] # ignite allows any
        if clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
        if clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, clip_value)
        apply_step(applied)
        if average is not None:
            average.update(applied)
        _add_errors(sums, pred, batch, losses, applied)

    trainer = Engine(step)

    @trainer.on(Events.STARTED)
    def _start(engine: Engine) -> None:
        batch_rmse = BatchRmse(sums.batch_rmse, sums.labels)
        engine.state.batch_rmse = batch_rmse  # type: ignore[attr-defined] # ignite allows any attribute
        model.train()

    return trainer


def build_validator(model: nn.Module, loss_fn: LossFunction, sums: Sums, *, device: torch.device) -> Engine:
    """Return an engine that accumulates the errors of a pass, and then restores the training mode of the model.

    Structures without finite predictions have no effect on the loss; ``sums`` leaves them out and counts them. After
    each batch, ``engine.state.finite`` tells which have finite predictions: booleans of shape (B,) on the device.
    """
    was_training = model.training

    def step(engine: Engine, batch: Batch) -> None:
        known = knowing_padding(batch[0]["numbers"], device)
        x, y = to_device(batch, device)
        engine.state.batch = None
        with torch.no_grad():
            with known:
                pred = model(dict(x))
            finite = sums.find_finite(pred, y, x["numbers"])
            labels = _labels_of(finite, y)
            losses = loss_fn(pred, labels)
            # A loss may have added masks.
            _add_errors(sums, pred, (x, {**labels, **y}), losses)
        engine.state.finite = finite  # type: ignore[attr-defined] # ignite allows any attribute

    validator = Engine(step)

    @validator.on(Events.STARTED)
    def _start(_: Engine) -> None:
        nonlocal was_training
        was_training = model.training
        model.eval()

    @validator.on(Events.COMPLETED)
    def _complete(_: Engine) -> None:
        model.train(was_training)

    return validator


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of a batch on the device, without waiting for it."""
    x, y = ({key: value.to(device, non_blocking=True) for key, value in part.items()} for part in batch)
    return x, y


def _labels_of(chosen: Tensor, y: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the labels with NaN in place of those of all other structures; masks are unchanged."""
    return {
        key: value if is_mask(key) else torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), value, torch.nan)
        for key, value in y.items()
    }


def _add_errors(
    sums: Sums,
    pred: Mapping[str, Tensor],
    batch: Batch,
    losses: Mapping[str, Tensor],
    applied: Tensor | None = None,
) -> None:
    x, y = batch
    with torch.no_grad():
        sums.update(pred, y, x["numbers"], x["fidelity"], losses, applied=applied)
