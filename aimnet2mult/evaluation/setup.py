"""What an evaluation needs: the model, the data, the loss, and the device."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from aimnet2mult.config.schema import Config
from aimnet2mult.data.cache.stores import Locations
from aimnet2mult.data.report import Report
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.data import EvaluationData, check_data_files, read_files, select_part
from aimnet2mult.evaluation.request import Request, find_fidelities, load_config
from aimnet2mult.metrics.layout import NO_TERMS, LossTerms
from aimnet2mult.models.definition import max_element
from aimnet2mult.models.saved_model import SavedModel, build_saved_model, read_saved_model
from aimnet2mult.train.components import build_components
from aimnet2mult.train.data_cache import share_contents
from aimnet2mult.train.data_check import check_data
from aimnet2mult.train.engine import LossFunction
from aimnet2mult.train.learner import build_loss, find_device
from aimnet2mult.train.loss import MTLoss
from aimnet2mult.train.precision import for_evaluation, prepare_device

__all__ = ["Setup", "prepare"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What an evaluation needs."""

    saved: SavedModel
    config: Config
    model: nn.Module
    data: EvaluationData
    device: torch.device
    loss_fn: LossFunction
    terms: LossTerms
    has_loss: bool
    """Whether the loss is known: not for a weight file."""


def prepare(request: Request, communicator: Communicator, warn: Callable[[str], object]) -> Setup:
    """Read the model and the data of a request.

    All ranks must call this. Rank 0 checks the data.

    Args:
        request: The request.
        communicator: Communicator of the ranks.
        warn: Called with each warning on rank 0.

    Raises:
        ConfigError: The request, a setting or the model is invalid.
        DataError: The data are unusable.
        ModelError: The model cannot be built.
    """
    saved = communicator.run_on_all(lambda: read_saved_model(request.model, request.weights))
    config = load_config(request, saved)
    device = communicator.run_on_all(lambda: find_device(config.device, communicator))
    config = for_evaluation(config, device)
    prepare_device(config.trainer, device)
    fidelities = find_fidelities(request, saved.fidelity_names)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if request.run is not None and not request.files:
        largest = max_element(saved.definition)
        runs = request.run.parent
        report = _on_first(
            communicator,
            lambda: check_data(config, runs, resumes=True, max_element=largest, build_cache=False),
        )
        read_contents = share_contents(report, communicator)
        loss_fn, data = communicator.run_on_all(
            lambda: _use_run(
                request,
                saved,
                config,
                fidelities,
                report=replace(report, contents=read_contents()),
                communicator=communicator,
            )
        )
    else:
        loss_fn = _no_loss if request.run is None else build_loss(config, communicator)
        report = _on_first(communicator, lambda: check_data_files(request.files, saved, config, warn))
        data = communicator.run_on_all(
            lambda: read_files(request.files, fidelities, saved, config, report=report, warn=warn)
        )
    communicator.set_device(device)
    return Setup(
        saved=saved,
        config=config,
        model=communicator.run_on_all(lambda: build_saved_model(saved, device)),
        data=data,
        device=device,
        loss_fn=loss_fn,
        terms=loss_fn.terms if isinstance(loss_fn, MTLoss) else NO_TERMS,
        has_loss=request.run is not None,
    )


def _on_first(communicator: Communicator, check: Callable[[], Report]) -> Report:
    """Check the data on rank 0, and return the result on all ranks."""
    report = communicator.run_on_all(lambda: None if communicator.rank else check().without_details())
    return communicator.broadcast(report)  # type: ignore[return-value] # rank 0 has one


def _use_run(
    request: Request,
    saved: SavedModel,
    config: Config,
    fidelities: Sequence[int],
    *,
    report: Report,
    communicator: Communicator,
) -> tuple[LossFunction, EvaluationData]:
    """Return the loss and the data of a run, as its training has them."""
    components = build_components(
        config,
        saved.definition,
        request.model,
        communicator,
        report.skipped,
        contents=report.contents,
        open_stores=Locations(caches=report.cache_folders).open_stores,
        # Whether data are large has been decided from the files, before size groups are merged and padded.
        in_memory_gb=None if report.caches else math.inf,
    )
    data = select_part(components.data, request.part, fidelities, len(saved.fidelity_names))
    return components.loss_fn, data


def _no_loss(y_pred: Mapping[str, Tensor], _: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a loss of 0: a weight file does not say how it has been trained."""
    return {"loss": torch.zeros((), device=next(iter(y_pred.values())).device)}
