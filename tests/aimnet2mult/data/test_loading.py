"""Data that are read from files batch by batch are the same as data in memory."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.data.checks import check_files
from aimnet2mult.data.dataset import INPUTS
from aimnet2mult.data.loading import load_data
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.data.rank_share import BatchLoader
from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.errors import DataError
from support.labels import built_in
from support.small_groups import make_group

LABELS = built_in("energy", "forces", "charges")
NAMES = [label.name for label in LABELS]

Write = Callable[..., Path]


@pytest.fixture
def files(write: Write, tmp_path: Path) -> list[Path]:
    """Return an HDF5 file, a compressed one, and a folder of npz files, with sizes that are merged and padded."""
    first = {n: make_group(n, count, labels=("energy", "forces")) for n, count in ((2, 41), (3, 90), (6, 7), (8, 40))}
    first[3]["energy"][::5] = np.nan
    first[8]["forces"][3] = np.inf
    second = {n: make_group(n, count, labels=("charges", "energy"), seed=1) for n, count in ((3, 50), (5, 33))}
    third = {n: make_group(n, count, labels=("energy",), seed=2) for n, count in ((2, 5), (4, 30))}
    paths = [write(first, "first.h5"), tmp_path / "second.h5", tmp_path / "third"]
    with h5py.File(paths[1], "w") as file:
        for size, arrays in second.items():
            for key, values in arrays.items():
                chunks = (8, *values.shape[1:])
                file.create_dataset(f"{size:03d}/{key}", data=values, chunks=chunks, compression="gzip")
    paths[2].mkdir()
    for size, arrays in third.items():
        np.savez(paths[2] / f"{size:03d}.npz", **arrays)
    return paths


def load(files: list[Path], in_memory_gb: float, **options: Any) -> MixedData:
    settings = {"labels": LABELS, "val_fraction": 0.2, "test_fraction": 0.1, "seed": 3, "batch_size": 4, "skipped": {}}
    return load_data(files, **{**settings, **options, "in_memory_gb": in_memory_gb})


def batches(data: MixedData, part: str, *, workers: int = 0, world: int = 1) -> list[dict[str, tuple[Any, ...]]]:
    """Return type, shape and bytes of all arrays of the batches of two epochs, on all ranks."""
    dataset, found = getattr(data, part), []
    for rank in range(world):
        sampler = MixedFidelitySampler(dataset, batch_size=7, seed=5)
        loader = BatchLoader(
            dataset, sampler, x=[*INPUTS, "origin"], y=NAMES, rank=rank, world=world, num_workers=workers
        )
        for epoch in range(2):
            sampler.set_epoch(epoch)
            for x, y in loader:
                arrays = {key: values.numpy() for key, values in (x | y).items()}
                found.append({key: (a.dtype, a.shape, a.tobytes()) for key, a in arrays.items()})
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"skipped_rows": True},
        {"batch_mode": "atoms", "batch_size": 30},
        {"val_file": True},
    ],
    ids=["", "skipped", "atoms", "validation file"],
)
def test_batches_from_files_are_bit_identical_to_batches_in_memory(
    files: list[Path], write: Write, options: dict[str, Any]
) -> None:
    options = dict(options)
    if options.pop("skipped_rows", False):
        options["skipped"] = {(str(files[0]), "003"): np.array([2, 5]), (str(files[1]), "005"): np.arange(33)}
    if options.pop("val_file", False):
        options["val_files"] = {1: write({3: make_group(3, 9, seed=9), 7: make_group(7, 3, seed=9)}, "val.h5")}
    memory, disk = load(files, np.inf, **options), load(files, 0, **options)
    assert (memory.in_memory, disk.in_memory) == (True, False)
    assert disk.size == memory.size
    for part in ("train", "val", "test"):
        assert batches(disk, part) == batches(memory, part)
    for name in ("train_counts", "val_counts", "test_counts", "labels", "saes", "elements", "checksums"):
        assert getattr(disk, name) == getattr(memory, name)
    assert disk.fingerprint() == memory.fingerprint()
    assert disk.content_checksum() == memory.content_checksum()
    assert [summary.text for summary in disk.summaries] == [summary.text for summary in memory.summaries]


def test_batches_of_workers_and_ranks_are_bit_identical(files: list[Path]) -> None:
    memory, disk = load(files, np.inf), load(files, 0)
    expected = batches(memory, "train", world=3)
    assert batches(disk, "train", world=3) == expected
    assert batches(disk, "train", world=3, workers=1) == expected


def test_data_up_to_the_limit_are_in_memory(files: list[Path]) -> None:
    size = load(files, 0).size
    assert load(files, size / 1e9).in_memory
    assert not load(files, (size - 1) / 1e9).in_memory


def test_an_error_in_a_worker_is_raised_without_a_traceback(files: list[Path]) -> None:
    data = load(files[:1], 0)
    files[0].write_bytes(files[0].read_bytes()[:3000])
    loader = BatchLoader(data.train, MixedFidelitySampler(data.train, batch_size=7), x=INPUTS, y=NAMES, num_workers=1)
    with pytest.raises(DataError, match="cannot be read; restore the file from a copy") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_a_file_that_changes_between_checks_and_loading_is_an_error(files: list[Path], write: Write) -> None:
    contents = check_files(files[:1], labels=LABELS).contents
    write({2: make_group(2, 41)}, "first.h5")
    with pytest.raises(DataError, match=r"first\.h5 has been changed while the run was starting"):
        load(files[:1], 0, contents=contents)


def test_loading_takes_little_more_memory_than_the_data(write: Write) -> None:
    group = make_group(20, 30_000, labels=("energy", "forces"))
    group["coord"][:, 0, 0] = 0
    path = write({20: group})
    del group
    contents = check_files([path], labels=LABELS).contents
    peaks = []
    for limit in (np.inf, 0):
        tracemalloc.start()
        data = load([path], limit, contents=contents)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 1.3 * data.size
    # The arrays of a structure have 668 bytes, and fitting the energies takes some more for a moment.
    assert peaks[1] < 80 * 30_000


def test_no_structures_are_arrays_without_rows(files: list[Path]) -> None:
    for limit in (np.inf, 0):
        group = load(files, limit).train.groups[0]
        shapes = {key: values.shape for key, values in group.read(np.arange(0), ["coord", "energy", "origin"]).items()}
        assert shapes == {"coord": (0, group.atoms, 3), "energy": (0,), "origin": (0,)}
