"""Evaluate a model: one pass over the data, and the results."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.batch import evaluate_part
from aimnet2mult.evaluation.folder import new_folder
from aimnet2mult.evaluation.gathering import Gathering
from aimnet2mult.evaluation.groupings import find_groupings
from aimnet2mult.evaluation.measurement import Measurement
from aimnet2mult.evaluation.outputs import open_outputs
from aimnet2mult.evaluation.plots import require_matplotlib
from aimnet2mult.evaluation.request import Request
from aimnet2mult.evaluation.results import Result, find_worst
from aimnet2mult.evaluation.setup import Setup, prepare
from aimnet2mult.evaluation.xyz import require_ase
from aimnet2mult.train.display_units import DisplayUnits
from aimnet2mult.train.loaders import build_loader, evaluation_sampler
from aimnet2mult.train.observation import Observer
from aimnet2mult.train.out_of_memory import explaining_memory

__all__ = ["evaluate"]


def evaluate(request: Request, communicator: Communicator, warn: Callable[[str], object]) -> tuple[Result, Setup]:
    """Evaluate a model; all ranks must call this, and only rank 0 returns complete results and writes files.

    Args:
        request: The request.
        communicator: Communicator of the ranks, which share each batch.
        warn: Called with each warning.

    Raises:
        ConfigError: The request, a setting or the model is invalid, or the folder cannot be written.
        DataError: The data are unusable.
        ModelError: The model cannot be built.
    """
    with contextlib.ExitStack() as stack:
        folder = communicator.run_on_all(lambda: None if communicator.rank else _open_folder(request, stack))
        setup = prepare(request, communicator, warn)
        outputs = communicator.run_on_all(lambda: stack.enter_context(open_outputs(folder, request, setup)))
        data, saved = setup.data, setup.saved
        groupings = communicator.run_on_all(
            lambda: find_groupings(
                data.datasets, data.places, FileFormat.from_config(setup.config), saved.fidelity_names, request.by
            )
        )
        measurement = Measurement(setup, groupings, communicator)
        observers = measurement.observers
        if request.output is not None and (request.plots or request.predictions):
            observers.append(Gathering(saved.labels, outputs.receivers, setup.device, communicator))
        _pass(setup, measurement, observers, communicator)
        result, units = _collect(request, setup, measurement)
        communicator.run_on_all(lambda: None if communicator.rank else outputs.finish(result, units))
    return result, setup


def _open_folder(request: Request, stack: contextlib.ExitStack) -> Path | None:
    """Create the folder of the request, if there is one, and check that everything can be written to it."""
    if request.output is None:
        return None
    if request.plots:
        require_matplotlib()
    if request.worst:
        require_ase()
    return stack.enter_context(new_folder(request.output))


def _pass(setup: Setup, measurement: Measurement, observers: list[Observer], communicator: Communicator) -> None:
    """Evaluate all structures, with a progress bar on a terminal."""
    hidden = bool(communicator.rank) or not (sys.stderr and sys.stderr.isatty())
    with tqdm(total=setup.data.structures, unit=" structures", disable=hidden, leave=False, delay=1) as bar:
        for dataset in setup.data.datasets:
            sampler = evaluation_sampler(setup.config, dataset)
            loader = build_loader(
                setup.config,
                "val",
                dataset,
                sampler,
                labels=setup.saved.labels,
                communicator=communicator,
                pin_memory=setup.device.type == "cuda",
            )
            with explaining_memory("reduce --batch-size"):
                evaluate_part(
                    dataset,
                    sampler,
                    loader,
                    model=setup.model,
                    loss_fn=setup.loss_fn,
                    sums=measurement.sums,
                    observers=observers,
                    device=setup.device,
                    communicator=communicator,
                    progress=bar.update,
                )


def _collect(request: Request, setup: Setup, measurement: Measurement) -> tuple[Result, DisplayUnits]:
    saved, data = setup.saved, setup.data
    evaluated, fidelities = _evaluated(setup)
    overall, by = measurement.collect(evaluated)
    units = DisplayUnits(saved.labels, setup.config)
    errors = {name: values for name, values in measurement.errors.items() if not name.endswith("_atom")}
    broken = np.flatnonzero(evaluated & np.isnan(next(iter(errors.values())))).tolist()
    names = [*overall, *(name for groups in by.values() for values in groups.values() for name in values)]
    result = Result(
        model=str(request.model),
        weights=str(saved.source),
        best=saved.best,
        data=list(dict.fromkeys(str(segment.path) for segment in data.places.segments)),
        part=None if request.files else request.part,
        structures=data.structures,
        left_out=data.left_out,
        not_finite=[data.places.describe(origin) for origin in broken],
        units={name: units.unit(name) for name in dict.fromkeys(names)},
        metrics=units.convert(overall),
        by={
            grouping: {group: units.convert(values) for group, values in groups.items()}
            for grouping, groups in by.items()
        },
        worst=find_worst(
            errors, request.worst, data.places, fidelities, units, allow_external=setup.config.data.allow_external
        ),
    )
    return result, units


def _evaluated(setup: Setup) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.object_]]:
    """Return which structures are evaluated, and the names of their fidelities, by origin."""
    total = setup.data.places.total
    evaluated, index = np.zeros(total, np.bool_), np.zeros(total, np.int64)
    for dataset in setup.data.datasets:
        for block in dataset.blocks(["origin", "fidelity"]):
            evaluated[block["origin"]] = True
            index[block["origin"]] = block["fidelity"]
    return evaluated, np.array(setup.saved.fidelity_names, object)[index]
