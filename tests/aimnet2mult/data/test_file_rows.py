"""Structures are read from files by index: the same values as those of whole arrays, whatever their storage."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.file_rows import FileRows, open_rows
from aimnet2mult.errors import DataError
from support.labels import built_in
from support.small_groups import Group, make_group

LABELS = built_in("energy", "forces", "charges")
KEYS = ("coord", "numbers", "charge", "mult", "energy", "forces", "charges")
ROWS = 900
ORDERS = {
    "random": np.random.default_rng(0).permutation(ROWS)[:50],
    "repeated": np.array([5, 3, 5, 899, 0, 3]),
    "all": np.arange(ROWS),
    "every second": np.arange(0, ROWS, 2, dtype=np.uint32),
    "none": np.arange(0),
}


def group() -> Group:
    arrays = make_group(4, ROWS, labels=("energy", "forces"))
    arrays["energy"][:3] = np.nan, np.inf, 1e300
    arrays["forces"][5, 2] = -np.inf
    arrays["charge"] = arrays["charge"].astype(np.bool_)
    return arrays


def plain(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        for key, values in group().items():
            file[f"004/{key}"] = values
    return folder / "a.h5"


def other_types(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w", userblock_size=1024, libver="latest") as file:
        arrays = group()
        file["004/coord"] = arrays["coord"].astype(">f8")
        file["004/numbers"] = arrays["numbers"].astype(">u2")
        file.create_dataset("004/energy", data=arrays["energy"], dtype=">f8")
        file["004/forces"] = arrays["forces"]
        file["004/charge"] = arrays["charge"]
    return folder / "a.h5"


def compressed(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        for key, values in group().items():
            chunks = (64, *values.shape[1:])
            file.create_dataset(f"004/{key}", data=values, chunks=chunks, compression="gzip", shuffle=True)
    return folder / "a.h5"


def npz(folder: Path) -> Path:
    (folder / "a").mkdir()
    np.savez(folder / "a" / "004.npz", **group())
    return folder / "a"


def compressed_npz(folder: Path) -> Path:
    (folder / "a").mkdir()
    np.savez_compressed(folder / "a" / "004.npz", **group())
    return folder / "a"


def open_one(path: Path, **factors: float) -> FileRows:
    (rows,) = open_rows(path, LABELS, FileFormat(factors=factors))
    return rows


def read_energies(store: FileRows, rows: Any) -> bytes:
    return store.read(rows, ["energy"])["energy"].tobytes()


@pytest.mark.parametrize("factors", [{}, {"energy": 27.2, "coord": 0.5}], ids=["", "converted"])
@pytest.mark.parametrize("write", [plain, other_types, compressed, npz, compressed_npz])
def test_rows_are_those_of_the_whole_arrays(
    write: Callable[[Path], Path], tmp_path: Path, factors: dict[str, float]
) -> None:
    store, arrays = open_one(write(tmp_path), **factors), group()
    assert (store.rows, store.atoms) == (ROWS, 4)
    expected = {key: arrays[key].astype(np.float64) * factors.get(key, 1.0) for key in arrays}
    for label in ("energy", "forces"):
        expected[label][np.abs(expected[label]) > np.finfo(np.float32).max] = np.nan
    expected |= {"mult": np.ones(ROWS), "charges": np.full((ROWS, 4), np.nan)}
    for rows in ORDERS.values():
        found = store.read(rows, KEYS)
        for key in KEYS:
            dtype = {"numbers": np.int32, "energy": np.float64}.get(key, np.float32)
            assert found[key].dtype == dtype
            assert np.array_equal(found[key], expected[key][rows].astype(dtype), equal_nan=True)


@pytest.mark.parametrize("write", [plain, compressed])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(write: Callable[[Path], Path], method: str, tmp_path: Path) -> None:
    store = open_one(write(tmp_path))
    expected = read_energies(store, np.arange(7))
    if method == "spawn":
        assert read_energies(pickle.loads(pickle.dumps(store)), np.arange(7)) == expected  # noqa: S301 - own bytes
        return
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(read_energies, (store, np.arange(7))) == expected


@pytest.mark.parametrize("write", [plain, compressed])
def test_several_threads_read_the_same(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    store = open_one(path)
    orders = [np.random.default_rng(seed).permutation(ROWS)[:90] for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rows: read_energies(store, rows), orders))
    assert found == [read_energies(open_one(path), rows) for rows in orders]


def test_a_file_that_is_truncated_later_is_an_error_that_names_the_rows(tmp_path: Path) -> None:
    path = plain(tmp_path)
    with h5py.File(path) as file:
        offset = file["004/forces"].id.get_offset()
    store = open_one(path)
    os.truncate(path, offset + 100 * 4 * 3 * 8)
    assert np.isfinite(store.read(np.array([99]), ["forces"])["forces"]).all()
    message = rf"{path}, group 004, rows 1 to 899: 'forces' cannot be read; .*\(the file has been truncated\)"
    with pytest.raises(DataError, match=message):
        store.read(np.array([1, 899]), ["forces"])


def test_a_damaged_chunk_is_an_error_that_names_the_rows(tmp_path: Path) -> None:
    path = compressed(tmp_path)
    store = open_one(path)
    with h5py.File(path) as file:
        chunk = file["004/energy"].id.get_chunk_info(2)
    with path.open("r+b") as opened:
        opened.seek(chunk.byte_offset)
        opened.write(b"\xff" * chunk.size)
    assert len(store.read(np.array([0, 899]), ["energy"])["energy"]) == 2
    with pytest.raises(DataError, match=rf"{path}, group 004, rows 130 to 130: 'energy' cannot be read; restore"):
        store.read(np.array([0, 130]), ["energy"])
