"""Short runs of the tiny model on random data."""

from pathlib import Path

import h5py
import numpy as np

from aimnet2mult.config.schema import Config, load
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.models.checkpoint_folder import find_newest
from aimnet2mult.train.components import Components, build_components
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.plain_runs import PLAIN
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Scalars


def write_data(path: Path, structures: int, seed: int) -> Path:
    """Write random structures of three atoms with energies and charges."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        group = file.create_group("003")
        group["coord"] = rng.normal(size=(structures, 3, 3))
        group["numbers"] = rng.choice([1, 6, 8], size=(structures, 3))
        group["energy"] = rng.normal(size=structures)
        group["charges"] = rng.normal(size=(structures, 3))
    return path


def train_tiny(folder: Path, *overrides: str, model: str = "support.tiny_model.TinyCore") -> Path:
    """Train a tiny model on 16 structures, four epochs of three iterations, and return the run folder."""
    (folder / "model.yaml").write_text(f"class: {model}\n")
    train(Request(overrides=[*_overrides(folder), *overrides], model=folder / "model.yaml"))
    return max((folder / "runs").iterdir(), key=lambda path: (len(path.name), path.name))


def build_tiny(folder: Path, *overrides: str, communicator: Communicator | None = None) -> tuple[Config, Components]:
    """Return the configuration and the components of the run that `train_tiny` would start."""
    config = load([], [*_overrides(folder), *overrides])
    return config, build_components(config, {"class": "support.tiny_model.TinyCore"}, folder, communicator)


def newest_checkpoint(run: Path) -> Path:
    """Return the newest complete checkpoint, of which there must be one."""
    newest = find_newest(run)
    assert newest is not None
    return newest


def _overrides(folder: Path) -> list[str]:
    return [
        f"data.fidelity_datasets.0={write_data(folder / 'a.h5', 16, 0)}",
        "run_name=tiny",
        "data.y=[energy, charges]",
        "data.val_fraction=0.25",
        "data.samplers.train.batch_size=4",
        "loss.class=support.tiny_model.StoppingLoss",
        "optimizer={class: torch.optim.Adam, kwargs: {lr: 0.1}}",
        "optimizer.param_groups.shifts=null",
        "trainer.epochs=4",
        "telemetry.sinks=none",
        *PLAIN,
        f"telemetry.dir={folder / 'runs'}",
    ]


def points(run: Path, stream: str = "val") -> dict[int, dict[str, float]]:
    """Return the values of a stream by iteration."""
    records = JournalReader(run).read(1000, live=False)
    return {r.step: dict(r.values) for r in records if isinstance(r, Scalars) and r.stream == stream}
