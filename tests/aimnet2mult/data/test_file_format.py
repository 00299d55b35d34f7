"""Arrays with other names and units are read as those of the training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aimnet2mult.config.data_units import DEFAULT_UNITS
from aimnet2mult.data.checks import check_files
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.errors import ConfigError
from support.labels import built_in
from support.small_groups import make_group
from support.whole_files import read_fidelity

Write = Callable[..., Path]
LABELS = ("energy", "forces")

# CODATA 2018.
HARTREE, BOHR, KCAL = 27.211386245988, 0.529177210903, 1 / 23.060547830619


@pytest.mark.parametrize(
    ("units", "factors"),
    [
        ({"energy": "hartree", "forces": "hartree/bohr", "coord": "bohr"}, (HARTREE, HARTREE / BOHR, BOHR)),
        ({"energy": "Ha", "forces": "Hartree/Bohr", "coord": "Bohr"}, (HARTREE, HARTREE / BOHR, BOHR)),
        ({"energy": "kcal/mol", "forces": "kcal/mol/Å", "coord": "angstrom"}, (KCAL, KCAL, 1.0)),
        ({"energy": "meV", "forces": "eV/nm", "coord": "nm"}, (1e-3, 0.1, 10.0)),
        ({"energy": "eV/particle"}, (1.0, 1.0, 1.0)),
    ],
)
def test_units_are_converted(write: Write, units: dict[str, str], factors: tuple[float, float, float]) -> None:
    group = make_group(4, 6, labels=LABELS)
    file = group | {
        key: group[key] / factor for key, factor in zip(("energy", "forces", "coord"), factors, strict=True)
    }
    read = read_fidelity(
        write({4: file}), labels=built_in(*LABELS), file_format=FileFormat.from_settings({}, {**DEFAULT_UNITS, **units})
    )[4]
    assert np.allclose(read["energy"], group["energy"], rtol=1e-9, atol=0)
    assert np.allclose(read["forces"], group["forces"], rtol=1e-6, atol=0)
    assert np.allclose(read["coord"], group["coord"], rtol=1e-6, atol=0)


def test_distances_are_checked_after_conversion(write: Write) -> None:
    group = make_group(2, 3)
    group["coord"] = np.tile([[0.0, 0, 0], [0, 0, 0.5]], (3, 1, 1))
    path = write({2: group})
    assert check_files([path], labels=()).ok
    bohr = FileFormat.from_settings({}, {"coord": "bohr"})
    assert check_files([path], labels=(), file_format=bohr).bad_count == 3


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("energy", "quatloo"),
        ("forces", "eV"),
        ("coord", "eV"),
        ("energy", ""),
        ("energy", "kcal"),
        ("energy", "Ha/mol"),
        ("forces", "kJ/nm"),
    ],
)
def test_an_invalid_unit_is_an_error(key: str, unit: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.units\.{key}: .*{unit}"):
        FileFormat.from_settings({}, {**DEFAULT_UNITS, key: unit})


def test_arrays_may_have_other_names(write: Write) -> None:
    group = make_group(4, 6, labels=LABELS)
    file = group | {"E_wb97m": group["energy"], "xyz": group["coord"], "q": np.full(6, 2)}
    del file["energy"], file["coord"], file["charge"]
    names = FileFormat(names={"energy": "E_wb97m", "coord": "xyz", "charge": "q"})
    read = read_fidelity(write({4: file}), labels=built_in(*LABELS), file_format=names)[4]
    assert np.array_equal(read["energy"], group["energy"])
    assert np.array_equal(read["coord"], group["coord"])
    assert set(read["charge"]) == {2.0}
    missing = check_files([write({4: file})], labels=built_in(*LABELS), file_format=FileFormat(names={"coord": "XYZ"}))
    assert "group 004 has no 'XYZ'; it has E_wb97m, forces, numbers, q, xyz" in missing.errors.lines()[0]
