"""A small run of the sample's model on two fidelities, with missing labels, padding and tags."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch

import aimnet2mult
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.evaluate import evaluate
from aimnet2mult.evaluation.request import Request
from aimnet2mult.evaluation.results import Result
from aimnet2mult.train.plan import Request as TrainingRequest
from aimnet2mult.train.runner import train

SAMPLE = Path(aimnet2mult.__file__).parent / "sample"
ROWS = {3: 24, 5: 20, 8: 9}
"""Number of structures of each size."""


class TrainedRun(NamedTuple):
    folder: Path
    files: list[Path]


def write_part(source: Path, path: Path, start: int = 0) -> Path:
    """Write some structures of a sample file; the first has tags, and some have no forces."""
    with h5py.File(source) as file, h5py.File(path, "w") as new:
        for atoms, rows in ROWS.items():
            name = f"{atoms:03d}"
            for key, array in file[name].items():
                if key != "_id":
                    new[f"{name}/{key}"] = array[start : start + rows]
            new[f"{name}/forces"][::4] = np.nan
            new[f"{name}/frame"] = np.arange(rows) + 1000 * atoms
            new[f"{name}/source"] = np.array([b"md", b"opt", b"md"] * rows)[:rows]
            new[f"{name}/_id"] = np.array([f"{atoms}-{row}" for row in range(rows)], dtype=h5py.string_dtype())
            new[f"{name}/batch"] = np.arange(rows) % 2
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Train for two epochs, with the best weights of the first or the second."""
    folder = tmp_path_factory.mktemp("evaluation")
    files = [write_part(SAMPLE / f"{name}.h5", folder / f"{name}.h5") for name in ("gfn1", "spgfn2")]
    torch.set_num_threads(1)
    overrides = [
        *(f"data.fidelity_datasets.{index}={path}" for index, path in enumerate(files)),
        "trainer.epochs=2",
        "data.samplers.train={batch_size: 8, batches_per_epoch: 6}",
        "data.samplers.val.batch_size=7",
        "data.val_fraction=0.3",
        "checkpoint.best=loss",
        "telemetry.sinks=none",
        f"telemetry.dir={folder / 'runs'}",
    ]
    request = TrainingRequest(configs=[SAMPLE / "train.yaml"], overrides=overrides, model=SAMPLE / "model.yaml")
    assert train(request) == 0
    (run,) = (folder / "runs").iterdir()
    return TrainedRun(run, files)


@pytest.fixture
def evaluated(trained: TrainedRun) -> Callable[..., Result]:
    """Return a function that evaluates the run as the command does, with options of the request."""

    def run(*files: Path, **options: Any) -> Result:
        warnings: list[str] = options.pop("warnings", [])
        request = Request(**{"model": trained.folder, "files": files, **options})
        return evaluate(request, Communicator(), warnings.append)[0]

    return run


Arrays = dict[str, np.ndarray[Any, Any]]


def read_groups(path: Path) -> dict[str, Arrays]:
    """Return the arrays of a file by group."""
    with h5py.File(path) as file:
        return {name: {key: array[:] for key, array in group.items()} for name, group in file.items()}
