"""Conversion of npz files in the layouts in which they are commonly published."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.data.conversion.convert import Options, convert
from aimnet2mult.errors import DataError

Arrays = dict[str, np.ndarray[Any, Any]]


def structures(sizes: list[int]) -> list[Arrays]:
    """Return structures with all labels."""
    rng = np.random.default_rng(0)
    return [
        {
            "numbers": rng.integers(1, 10, size),
            "coord": rng.normal(size=(size, 3)),
            "energy": rng.normal(-1e4, 1, ()),
            "forces": rng.normal(size=(size, 3)),
            "charges": rng.normal(size=size),
            "spin_charges": rng.normal(size=size),
            "charge": np.asarray(rng.integers(-1, 2)),
            "mult": np.asarray(rng.integers(1, 3)),
        }
        for size in sizes
    ]


def stacked(parts: list[Arrays], size: int = 0) -> Arrays:
    """Return arrays with one row per structure, padded with zeros to a number of atoms."""

    def pad(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.pad(array, [(0, max(0, size - len(array)))] + [(0, 0)] * (array.ndim - 1)) if array.ndim else array

    return {key: np.stack([pad(part[key]) for part in parts]) for key in parts[0]}


def read(tmp_path: Path, *files: Mapping[str, Any], names: Mapping[str, str] | None = None) -> dict[str, Arrays]:
    """Save files, convert them to one, and return its arrays by group."""
    paths = []
    for number, arrays in enumerate(files):
        paths.append(tmp_path / f"{number}.npz")
        np.savez_compressed(paths[-1], **arrays)
    convert(paths, tmp_path / "out.h5", Options(names=names or {}))
    with h5py.File(tmp_path / "out.h5") as file:
        return {size: {key: array[()] for key, array in group.items()} for size, group in file.items()}


def assert_equal(found: Mapping[str, Arrays], parts: list[Arrays]) -> None:
    sizes = {len(part["numbers"]) for part in parts}
    assert set(found) == {f"{size:03d}" for size in sizes}
    for size in sizes:
        expected = stacked([part for part in parts if len(part["numbers"]) == size])
        assert found[f"{size:03d}"].keys() - {"frame"} == expected.keys()
        for key, values in expected.items():
            rtol = 1e-15 if key == "energy" else 1e-7
            np.testing.assert_allclose(found[f"{size:03d}"][key], values, rtol=rtol, err_msg=key)


def test_one_file_per_number_of_atoms(tmp_path: Path) -> None:
    parts = structures([3, 3, 5, 5, 5])
    assert_equal(read(tmp_path, stacked(parts[:2]), stacked(parts[2:])), parts)


def test_structures_padded_with_zeros(tmp_path: Path) -> None:
    parts = structures([3, 6, 4, 3, 1])
    assert_equal(read(tmp_path, stacked(parts, size=6)), parts)


def test_atoms_of_all_structures_one_after_the_other(tmp_path: Path) -> None:
    parts = structures([3, 1, 4, 3])
    arrays = {
        key: (np.concatenate if parts[0][key].ndim else np.stack)([part[key] for part in parts]) for key in parts[0]
    }
    assert_equal(read(tmp_path, {**arrays, "natoms": np.array([3, 1, 4, 3])}), parts)


def test_files_like_those_of_md17(tmp_path: Path) -> None:
    """One list of atomic numbers, short names, and energies as a column."""
    parts = [{**part, "numbers": np.array([6, 1, 1])} for part in structures([3, 3, 3])]
    arrays = stacked(parts)
    md17 = {"z": arrays["numbers"][0], "R": arrays["coord"], "E": arrays["energy"][:, None], "F": arrays["forces"]}
    found = read(tmp_path, {**md17, "theory": np.array("PBE+vdW-TS"), "name": np.array("water")})
    keys = ("numbers", "coord", "energy", "forces")
    assert_equal(found, [{key: part[key] for key in keys} for part in parts])


def test_arrays_in_fortran_order_and_big_endian(tmp_path: Path) -> None:
    parts = structures([4, 4, 4])
    arrays = stacked(parts)
    arrays["forces"] = np.asfortranarray(arrays["forces"])
    arrays["coord"] = arrays["coord"].astype(">f8")
    assert_equal(read(tmp_path, arrays), parts)


def test_many_blocks_of_several_sizes_keep_their_order(tmp_path: Path) -> None:
    """More atoms of a size than are written at once, with a label that only later structures have."""
    counts = np.resize([7, 11], 5000)
    rng = np.random.default_rng(1)
    numbers = np.where(np.arange(11) < counts[:, None], rng.integers(1, 10, (5000, 11)), 0)
    first = {"numbers": numbers, "coord": rng.normal(size=(5000, 11, 3)), "energy": np.arange(5000.0)}
    second = {key: array[:100] for key, array in first.items()} | {"charges": np.ones((100, 11))}
    found = read(tmp_path, first, second)
    for size in (7, 11):
        rows = np.flatnonzero(counts == size)
        own = np.concatenate([rows, rows[rows < 100]])
        group = found[f"{size:03d}"]
        np.testing.assert_array_equal(group["energy"], own)
        np.testing.assert_array_equal(group["numbers"], numbers[own, :size])
        np.testing.assert_array_equal(group["coord"], first["coord"][own, :size].astype(np.float32))
        np.testing.assert_array_equal(np.isnan(group["charges"]).all(axis=1), np.arange(len(own)) < len(rows))


def test_names_of_arrays_can_be_given(tmp_path: Path) -> None:
    """In some files, ``charges`` are nuclear charges."""
    parts = [{key: part[key] for key in ("numbers", "coord", "energy")} for part in structures([3, 3])]
    arrays = stacked(parts)
    arrays["charges"] = arrays.pop("numbers")
    arrays["U0"] = arrays.pop("energy")
    assert_equal(read(tmp_path, arrays, names={"numbers": "charges", "energy": "U0"}), parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coord": None}, r"0.npz: there is no coord; found: charge, charges, .*; give the name with --key coord=NAME"),
        ({"coord": np.zeros((6, 3))}, r"'coord' has shape \(6, 3\); expected \(structures, atoms, 3\), or .* 'natoms'"),
        ({"coord": np.zeros((6, 3)), "natoms": np.array([2, 3])}, r"add up to 5, but there are 6 coordinates"),
        ({"energy": np.zeros(3)}, r"0.npz: 'energy' has shape \(3,\); expected 2 rows"),
        ({"forces": np.zeros((2, 4, 3))}, r"0.npz, row 0: 'forces' has shape \(4, 3\), expected \(3, 3\)"),
        ({"numbers": np.full((2, 3), "H")}, r"0.npz, row 0: 'numbers' has type <U1; expected numbers"),
        ({"numbers": np.array([[1, 1, 1], [0, 0, 0]])}, r"0.npz, row 1: 'numbers' has shape \(0,\); expected 1 to"),
        ({"energy": np.array([1, None])}, r"'energy' contains Python objects, which could execute code; pad"),
        ({"R": np.zeros((2, 3, 3))}, r"the coord may be '.*' or '.*'; choose with --key coord="),
    ],
)
def test_unusable_arrays_are_reported_with_their_place(tmp_path: Path, changes: Arrays, message: str) -> None:
    arrays = {key: array for key, array in {**stacked(structures([3, 3])), **changes}.items() if array is not None}
    with pytest.raises(DataError, match=message):
        read(tmp_path, arrays)
    assert [path.name for path in tmp_path.iterdir()] == ["0.npz"]


def test_a_truncated_array_is_reported(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **stacked(structures([3] * 500)))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a.npz: File is not a zip file"):
        convert([tmp_path / "a.npz"], tmp_path / "out.h5", Options())


@pytest.mark.parametrize("number", [8.5, -1.0, 1e20, np.nan, 119.0])
def test_atomic_numbers_that_are_none_are_named(tmp_path: Path, number: float) -> None:
    arrays = stacked(structures([2]))
    arrays["numbers"] = np.array([[1.0, number]])
    with pytest.raises(DataError) as caught:
        read(tmp_path, arrays)
    assert str(caught.value) == f"{tmp_path / '0.npz'}, row 0: atom 1 has atomic number {number:g}; expected 1 to 118"


@pytest.mark.parametrize(
    ("arrays", "periodic"),
    [
        ({"pbc": np.ones(3, bool)}, True),
        ({"cell": np.eye(3)[None]}, True),
        ({"pbc": np.zeros((1, 3), bool), "cell": np.eye(3)[None]}, False),
        ({"cell": np.zeros((1, 3, 3))}, False),
    ],
)
def test_periodic_structures_are_an_error(tmp_path: Path, arrays: Arrays, periodic: bool) -> None:
    file = {**stacked(structures([2])), **arrays}
    if not periodic:
        read(tmp_path, file)
        return
    with pytest.raises(DataError, match=r"0\.npz, row 0: the structure is periodic.*--ignore-cell"):
        read(tmp_path, file)


def test_two_candidates_are_reported_with_the_file(tmp_path: Path) -> None:
    parts = stacked(structures([2]))
    with pytest.raises(DataError, match=r"0\.npz: the energy may be 'energy' or 'E'; choose with"):
        read(tmp_path, {**parts, "E": parts["energy"]})
