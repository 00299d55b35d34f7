"""Build the components of a training run that do not depend on the data, and report all their problems at once."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from torch.optim import Optimizer

from aimnet2mult.config.import_path import load_object
from aimnet2mult.config.schema import Config
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.errors import ConfigError, ModelError, Problems
from aimnet2mult.models.build import build_model
from aimnet2mult.models.dense_masks import use_known_padding
from aimnet2mult.models.initial_weights import InitialWeights, load_weights
from aimnet2mult.train.early_stopping import EarlyStopping
from aimnet2mult.train.gradient import LossFunction
from aimnet2mult.train.loss import MTLoss
from aimnet2mult.train.loss_methods import UsesRanks
from aimnet2mult.train.optimizer import build_optimizer, build_scheduler
from aimnet2mult.train.precision import prepare_device, set_precision
from aimnet2mult.train.restoring import Stateful
from aimnet2mult.train.validation_metrics import ValidationMetrics, possible_metrics

__all__ = ["Learner", "build_learner", "build_loss", "find_device", "scheduler_section"]


@dataclass(frozen=True, kw_only=True)
class Learner:
    """The components that do not depend on the data."""

    device: torch.device
    model: nn.Module
    loss_fn: LossFunction
    optimizer: Optimizer
    loaded: InitialWeights | None
    """The weights that were loaded from a file; None if they are random."""


def build_learner(
    config: Config,
    definition: Mapping[str, Any],
    communicator: Communicator,
    *,
    model_file: Path | None,
    weights: Path | None,
) -> Learner:
    """Build everything that does not depend on the data.

    Args:
        config: the configuration of the run.
        definition: the definition of the model.
        communicator: communicator of the ranks.
        model_file: file that contains the definition, for error messages.
        weights: file of initial weights; by default, they are random.

    Raises:
        ConfigError: a setting is invalid, or there are several problems; the message has a line for each.
        ModelError: the model cannot be built.
    """
    problems = Problems()
    known = possible_metrics(config.labels, config.fidelity_names, config.loss.components)
    metrics = ValidationMetrics(known=known, available=list(known))
    device, loaded = torch.device("cpu"), None
    with problems.collect():
        device = find_device(config.device, communicator)
    with problems.collect():
        if config.checkpoint.best is not None:
            metrics.find(config.checkpoint.best, "checkpoint.best")
    with problems.collect():
        EarlyStopping(config.trainer.early_stopping, metrics)
    with problems.collect():
        prepare_device(config.trainer, device)
    with problems.collect():
        loss_fn = build_loss(config, communicator)
        _check_micro_batches(config, loss_fn)
    with problems.collect():
        model = _build_model(config, definition, model_file).to(device)
        set_precision(model, config.trainer.precision)
        if device.type == "cuda":
            use_known_padding(model)
        if weights is not None:
            with problems.collect():
                loaded = load_weights(model, weights, config.fidelity_names, offset=config.fidelity_offset)
        optimizer = build_optimizer(model, _optimizer_section(config))
        # On a copy: which metrics have labels is known once the data have been read.
        build_scheduler(copy.deepcopy(optimizer), scheduler_section(config), metrics=metrics)
    problems.raise_any()
    return Learner(device=device, model=model, loss_fn=loss_fn, optimizer=optimizer, loaded=loaded)


def _build_model(config: Config, definition: Mapping[str, Any], model_file: Path | None) -> nn.Module:
    try:
        return build_model(
            definition,
            labels=config.labels,
            n_fidelities=len(config.fidelity_names),
            fidelity_offset=config.fidelity_offset,
            use_fidelity_readouts=config.use_fidelity_readouts,
        )
    except ModelError as error:
        if not model_file:
            raise
        raise ModelError("\n".join(f"{model_file}: {line}" for line in str(error).splitlines())) from error


def find_device(name: str, communicator: Communicator) -> torch.device:
    """Return the device that the setting ``device`` names.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no CUDA device; set device=cpu or device=auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if communicator.world_size == 1 else torch.device("cuda", torch.cuda.current_device())


def scheduler_section(config: Config) -> dict[str, Any] | None:
    """Return the section ``scheduler`` as `build_scheduler` takes it."""
    section: dict[str, Any] | None = None if config.scheduler is None else msgspec.to_builtins(config.scheduler)
    return section


def _optimizer_section(config: Config) -> dict[str, Any]:
    section: dict[str, Any] = msgspec.to_builtins(config.optimizer)
    groups = section["param_groups"]
    section["param_groups"] = {name: group for name, group in groups.items() if group is not None}
    return section


def build_loss(config: Config, communicator: Communicator) -> LossFunction:
    """Build the loss function, for batches that the ranks of ``communicator`` share.

    Raises:
        ConfigError: a setting is invalid.
    """
    make = load_object(config.loss.cls, "loss.class", "loss")
    if not isinstance(make, type):
        raise ConfigError(f"loss.class is {config.loss.cls}, which is not a class")
    for key, path in config.loss.functions.items():
        # Losses of other packages import their functions themselves.
        load_object(path, key, "loss")
    try:
        loss_fn: LossFunction = make(**config.loss.arguments)
    except TypeError as error:
        raise ConfigError(f"loss.kwargs do not fit {config.loss.cls}: {error}") from error
    # With several parts, the counts of the whole batch are determined before it is predicted; see `build_gradient`.
    if isinstance(loss_fn, UsesRanks) and config.trainer.micro_batches == 1:
        loss_fn.use_ranks(communicator)
    return loss_fn


def _check_micro_batches(config: Config, loss_fn: LossFunction) -> None:
    """Check that the loss of a batch can be computed in parts, if it has to be.

    Raises:
        ConfigError: it cannot.
    """
    parts = config.trainer.micro_batches
    if parts == 1:
        return
    # An adaptive loss, which has a state, would adapt after each part.
    if not isinstance(loss_fn, MTLoss) or isinstance(loss_fn, Stateful):
        raise ConfigError(
            f"trainer.micro_batches is {parts}, but the loss of a batch in parts is known only for {MTLoss.__module__}."
            f"MTLoss, not for {config.loss.cls}; use that class, or set trainer.micro_batches=1"
        )
    paths = config.loss.functions
    uncounted = [name for name, partial in loss_fn.functions.items() if not hasattr(partial.func, "sum_and_count")]
    if wrong := [f"{name} ({paths[f'loss.kwargs.components.{name}.fn']})" for name in uncounted]:
        raise ConfigError(
            f"trainer.micro_batches is {parts}, but the functions of the loss components {', '.join(wrong)} do not "
            f"return sums and counts; decorate them with {MTLoss.__module__}.mean, or set trainer.micro_batches=1"
        )
