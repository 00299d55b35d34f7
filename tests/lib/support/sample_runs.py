"""A small run of the sample's model on two fidelities, with missing labels, several sizes and tags."""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

import aimnet2mult
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.plain_runs import PLAIN

SAMPLE = Path(aimnet2mult.__file__).parent / "sample"
ROWS = {3: 24, 5: 20, 8: 9}
"""Number of structures of each size."""
Arrays = dict[str, Any]


class TrainedRun(NamedTuple):
    """A run folder and the data files of its fidelities."""

    folder: Path
    files: list[Path]


def write_part(source: Path, path: Path) -> Path:
    """Write some structures of a sample file, some of them without forces, with tags and arrays that are no tags."""
    with h5py.File(source) as file, h5py.File(path, "w") as new:
        for atoms, rows in ROWS.items():
            name = f"{atoms:03d}"
            for key, array in file[name].items():
                if key != "_id":
                    new[f"{name}/{key}"] = array[:rows]
            new[f"{name}/forces"][::4] = np.nan
            new[f"{name}/frame"] = np.arange(rows) + 1000 * atoms
            new[f"{name}/source"] = np.array([b"md", b"opt", b"md"] * rows)[:rows]
            new[f"{name}/_id"] = np.array([f"{atoms}-{row}" for row in range(rows)], dtype=h5py.string_dtype())
            new[f"{name}/batch"] = np.arange(rows) % 2
    return path


def train_part(folder: Path, *settings: str) -> TrainedRun:
    """Train for two epochs, with further settings, and keep the best weights."""
    files = [write_part(SAMPLE / f"{name}.h5", folder / f"{name}.h5") for name in ("gfn1", "spgfn2")]
    overrides = [
        *(f"data.fidelity_datasets.{index}={path}" for index, path in enumerate(files)),
        "trainer.epochs=2",
        "data.samplers.train={batch_size: 8, batches_per_epoch: 6}",
        "data.samplers.val.batch_size=7",
        "data.val_fraction=0.3",
        "checkpoint.best=loss",
        "telemetry.sinks=none",
        *PLAIN,
        f"telemetry.dir={folder / 'runs'}",
        *settings,
    ]
    request = Request(configs=[SAMPLE / "train.yaml"], overrides=overrides, model=SAMPLE / "model.yaml")
    assert train(request) == 0
    (run,) = (folder / "runs").iterdir()
    return TrainedRun(run, files)


def read_groups(path: Path) -> dict[str, Arrays]:
    """Return the arrays of a file by group."""
    with h5py.File(path) as file:
        return {name: {key: array[:] for key, array in group.items()} for name, group in file.items()}
