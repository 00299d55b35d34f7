"""The gradient of the loss of a batch, over all ranks, computed at once or in parts that need less memory."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.losses import Losses, sums_and_counts
from telemetry.errors import format_error

__all__ = ["Batch", "Gradient", "LossFunction", "Outputs", "build_gradient"]

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]
"""The model's inputs and the labels."""

LossFunction = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Function of predictions and labels that returns the components of the loss, and their sum as ``loss``.

See `ErrorSums.update` for the pooling of the loss over several batches.
"""

Outputs = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
"""The predictions and the losses."""

Gradient = Callable[[Batch], tuple[Batch, Outputs]]
"""Function that adds the gradient of the loss of a batch to that of the parameters.

It returns the batch, with everything that the loss has added to it, and its predictions and losses.
"""


def build_gradient(model: nn.Module, loss_fn: LossFunction, communicator: Communicator, parts: int = 1) -> Gradient:
    """Return the function that computes the gradient.

    With several parts, the gradient is the one of the whole batch up to rounding, whichever labels are missing, since
    the sums of a component of the loss are divided by its count in the whole batch. Only the predictions of labels are
    then returned.

    Args:
        model: the model.
        loss_fn: the loss function; for several parts, it is an `MTLoss` that does not reduce over the ranks itself.
        communicator: communicator of the ranks that share each batch.
        parts: number of parts, of up to one structure more or less than the others.
    """
    checked = _checking(loss_fn)
    module = communicator.wrap(_ModelWithLoss(model, checked)) if communicator.world_size > 1 else None

    def predict(x: dict[str, Tensor], y: dict[str, Tensor], counts: Tensor | None = None) -> Outputs:
        if module is not None:
            pred, (loss, *terms) = module(x, y, counts)
            return pred, Losses({"loss": loss}, *terms)
        pred = model(x)
        losses = checked(pred, y)
        return pred, losses if counts is None else losses.over(counts)  # type: ignore[attr-defined] # see _count

    def whole(batch: Batch) -> tuple[Batch, Outputs]:
        x, y = batch
        pred, losses = predict(dict(x), y)
        _backward(losses["loss"])
        return (x, y), (pred, losses)

    def in_parts(batch: Batch) -> tuple[Batch, Outputs]:
        x, y = _pad(batch, parts)
        counts = _count(loss_fn, (x, y), communicator)
        done = []
        for number, (part_x, part_y) in enumerate(_split((x, y), parts)):
            is_last = number == parts - 1
            with nullcontext() if module is None or is_last else communicator.without_averaging(module):
                pred, losses = predict(dict(part_x), part_y, counts)
                _backward(losses["loss"])
            terms = losses.sums_and_counts  # type: ignore[attr-defined] # see _count
            predictions = {key: pred[key].detach() for key in y if key in pred}
            done.append((part_y, predictions, losses["loss"].detach(), terms))
        labels, all_predictions, totals, all_terms = zip(*done, strict=True)
        total = Losses({"loss": torch.stack(totals).sum()}, torch.stack(all_terms).sum(0))
        return (x, _join(labels)), (_join(all_predictions), total)

    return whole if parts == 1 else in_parts


def _backward(loss: Tensor) -> None:
    # The gradient of the loss is 1, or NaN if the loss is not finite: on several ranks, averaging then spreads the NaN
    # to all of them.
    loss.backward(1 + 0 * loss.detach())  # type: ignore[no-untyped-call] # torch


def _pad(batch: Batch, rows: int) -> Batch:
    """Return a batch with at least this number of structures: on all ranks, there are as many parts.

    The added structures are copies of the first one without labels, which contribute nothing.
    """
    x, y = batch
    missing = rows - len(x["numbers"])
    if missing <= 0:
        return x, y
    copies = {key: value[:1].expand(missing, *value.shape[1:]) for key, value in (x | y).items()}
    labels = {key: torch.full_like(copies[key], torch.nan) for key in y if y[key].is_floating_point()}
    copies |= labels
    x, y = ({key: torch.cat((value, copies[key])) for key, value in part.items()} for part in (x, y))
    return x, y


def _split(batch: Batch, parts: int) -> Iterator[Batch]:
    split = [{key: value.tensor_split(parts) for key, value in half.items()} for half in batch]
    for number in range(parts):
        x, y = ({key: values[number] for key, values in half.items()} for half in split)
        yield x, y


def _join(parts: tuple[Mapping[str, Tensor], ...]) -> dict[str, Tensor]:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


@torch.no_grad()
def _count(loss_fn: LossFunction, batch: Batch, communicator: Communicator) -> Tensor:
    """Return the count of each component of the loss in the whole batch, divided by the number of ranks.

    The mean of the gradients over the ranks is then that of the whole batch. Each label takes the place of its
    prediction, since a count depends only on inputs and labels.

    Raises:
        ConfigError: a component needs something else, or a subclass of `MTLoss` returns a plain dictionary.
    """
    x, y = batch
    functions: Mapping[str, LossFunction] = loss_fn.functions  # type: ignore[attr-defined] # an MTLoss
    pairs = [_keys(function) for function in functions.values()]
    stand_in = {**x, **y, **{pred: y[true] for pred, true in pairs if pred and true and true in y}}
    try:
        terms = sums_and_counts(loss_fn(stand_in, dict(y)))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "trainer.micro_batches is above 1, but the loss cannot count what it compares in a batch that is not "
            f"predicted yet: {format_error(error)}; set trainer.micro_batches=1"
        ) from error
    if terms is None:
        raise ConfigError(
            "trainer.micro_batches is above 1, but the loss returns a plain dictionary, without the sums and counts of "
            "its components; set trainer.micro_batches=1"
        )
    counts: Tensor = terms[1].clone()
    communicator.all_reduce_sum(counts)
    return counts.clamp_(min=1).div_(communicator.world_size)


@functools.cache
def _keys(function: LossFunction) -> tuple[str | None, str | None]:
    """Return the prediction and the label that a component of the loss compares, if they are arguments."""
    parameters = inspect.signature(function).parameters
    pred, true = (parameters[key].default if key in parameters else None for key in ("key_pred", "key_true"))
    return pred, true


class _ModelWithLoss(nn.Module):
    """A model together with its loss, which is the only output with a gradient.

    If an output outside the loss had a gradient, DDP would wait for gradients of parameters that affect only this
    output.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model = model
        self._loss_fn = loss_fn

    def forward(
        self, x: dict[str, Tensor], y: dict[str, Tensor], counts: Tensor | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the predictions, and the loss followed by its sums and counts, if it has any."""
        pred = self.model(x)
        losses = self._loss_fn(pred, y)
        if counts is not None:
            losses = losses.over(counts)  # type: ignore[attr-defined] # see _count
        terms = sums_and_counts(losses)
        # DDP does not look into other classes than lists, tuples and dictionaries.
        return {key: value.detach() for key, value in pred.items()}, [
            losses["loss"],
            *([] if terms is None else [terms]),
        ]


def _checking(loss_fn: LossFunction) -> LossFunction:
    """Return a loss function that checks what the first call returns.

    Raises:
        ConfigError: it is not a mapping whose ``loss`` is a scalar with a gradient.
    """
    checked = False

    def checking(pred: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        nonlocal checked
        losses = loss_fn(pred, y)
        if not checked and (problem := _find_problem(losses)):
            raise ConfigError(
                f"loss.class: the loss function returned {problem}; expected a dictionary of scalar tensors, of which "
                "'loss' is minimized"
            )
        checked = True
        return losses

    return checking


def _find_problem(losses: object) -> str:
    """Return what is wrong with the result of a loss function, or ""."""
    if not isinstance(losses, Mapping):
        return f"an object of type {type(losses).__name__}"
    total = losses.get("loss")
    if not isinstance(total, Tensor):
        return (
            f"a dictionary with {', '.join(map(repr, losses)) or 'nothing'}" if total is None else f"'loss' {total!r}"
        )
    if total.ndim:
        return f"'loss' of shape {tuple(total.shape)}"
    return "" if total.requires_grad else "'loss' without a gradient"
