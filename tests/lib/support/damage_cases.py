"""Read damaged data files or checkpoints, one after the other.

The arguments of ``python -m support.damage_cases`` are those of `main`. Prints the number of refused files and the
longest time in seconds. The number of the current case is in the file ``case``, in case the process dies.
"""

import copy
import faulthandler
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import torch

from aimnet2mult.data.checks import check_files
from aimnet2mult.errors import CheckpointError, ConfigError, DataError
from aimnet2mult.models.initial_weights import load_weights
from aimnet2mult.models.weights import save_checkpoint_weights
from aimnet2mult.train.checkpoint_file import load_checkpoint
from aimnet2mult.train.checkpoint_peek import read_progress
from support.damage import damage_bytes, damage_hdf5, damage_pickle, damage_values
from support.file_contents import read_content
from support.labels import built_in
from support.small_groups import make_group
from support.tiny_runs import build_tiny, newest_checkpoint, train_tiny
from support.whole_files import read_fidelity

LABELS = ("energy", "forces")
Read = Callable[[random.Random], bool]


def hdf5_reader(folder: Path) -> Read:
    """Return a function that damages a data file, and returns whether it is refused."""
    original, path = folder / "original.h5", folder / "data.h5"
    write_data(original)

    def read(rng: random.Random) -> bool:
        path.write_bytes(original.read_bytes())
        structural = rng.random() < 0.6
        if structural:
            damage_hdf5(path, rng)
        if not structural or rng.random() < 0.1:
            path.write_bytes(damage_bytes(path.read_bytes(), rng))
        report = check_files([path], labels=built_in(*LABELS))
        if any("\n" in line for line in report.error_lines):
            raise AssertionError(report.error_lines)
        try:
            read_fidelity(path, labels=built_in(*LABELS))
        except DataError:
            if report.ok:
                raise
        return not report.ok

    return read


def write_data(path: Path) -> None:
    """Write a small data file with contiguous, chunked and compressed arrays."""
    with h5py.File(path, "w") as file:
        for atoms, options in ((3, {}), (4, {"chunks": True, "compression": "gzip", "shuffle": True})):
            for name, array in make_group(atoms, 5, labels=LABELS).items():
                file.create_dataset(f"{atoms:03d}/{name}", data=array, **options)


def checkpoint_reader(folder: Path) -> Read:
    """Return a function that damages a checkpoint, and returns whether it is refused in one of its uses."""
    original = newest_checkpoint(train_tiny(folder, "trainer.epochs=1"))
    content: dict[str, Any] = read_content(original)
    components = build_tiny(folder)[1]
    path = folder / "step-00000003.pt"
    state: Any = {
        "model": components.model,
        "optimizer": components.optimizer,
        "schedule": components.schedule,
        "sums": components.train_sums,
    }
    uses: list[tuple[type[Exception], Callable[[], object]]] = [
        (CheckpointError, lambda: read_progress(path)),
        (CheckpointError, lambda: load_checkpoint(path, state)),
        (ConfigError, lambda: load_weights(components.model, path)),
        (CheckpointError, lambda: save_checkpoint_weights(path, folder, folder / "weights.pt")),
    ]

    def read(rng: random.Random) -> bool:
        kind = rng.randrange(4)
        if kind == 0:
            path.write_bytes(damage_bytes(original.read_bytes(), rng))
        elif kind == 1:
            damage_pickle(original, path, rng)
        else:
            torch.save(damage_values(copy.deepcopy(content), rng), path)
        return sum(_refuses(error, use) for error, use in uses) > 0

    return read


def _refuses(kind: type[Exception], use: Callable[[], object]) -> bool:
    try:
        use()
    except kind as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error
        return True
    return False


def main(kind: str, first: int, count: int, folder: Path) -> None:
    """Read ``count`` damaged files, seeded by their numbers from ``first``."""
    read = {"hdf5": hdf5_reader, "checkpoint": checkpoint_reader}[kind](folder)
    refused, longest = 0, 0.0
    for number in range(first, first + count):
        (folder / "case").write_text(str(number))
        faulthandler.dump_traceback_later(60, exit=True)
        start = time.monotonic()
        refused += read(random.Random(number))
        longest = max(longest, time.monotonic() - start)
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.write(f"refused {refused} longest {longest:.1f}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
