"""Files with another layout are rejected, with the location of the problem."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimnet2mult.data.hdf5 import read_fidelity
from aimnet2mult.errors import DataError
from support.small_groups import make_group

Write = Callable[..., Path]


def change(**arrays: Any) -> Callable[[], dict[Any, dict[str, Any]]]:
    """Return a function that writes two groups, replacing arrays of the second one, or removing them if None."""

    def groups() -> dict[Any, dict[str, Any]]:
        changed = {**make_group(4, 6), **arrays}
        return {3: make_group(3, 5), 4: {key: array for key, array in changed.items() if array is not None}}

    return groups


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (change(numbers=None), r"group 004 has no 'numbers'; it has charge, coord, energy"),
        (change(coord=None), r"group 004 has no 'coord'"),
        (change(energy=None), r"group 003 has 'energy' and group 004 does not"),
        (change(forces=np.zeros((6, 4, 3))), r"group 004 has 'forces' and group 003 does not"),
        (change(energy=np.zeros((6, 1))), r"'energy' has shape \(6, 1\), expected \(6,\)"),
        (change(charge=np.zeros((6, 1))), r"'charge' has shape \(6, 1\), expected \(6,\)"),
        (change(mult=np.ones((6, 4))), r"'mult' has shape \(6, 4\), expected \(6,\)"),
        (change(mult=np.ones(6)), r"group 004 has 'mult' and group 003 does not"),
        (change(energy=np.zeros(5)), r"'energy' has shape \(5,\), expected \(6,\)"),
        (change(coord=np.zeros((6, 3, 3))), r"'coord' has shape \(6, 3, 3\), expected \(6, 4, 3\)"),
        (change(numbers=np.full((6, 4), 64)), r"atomic number 64; supported are 1 to 63"),
        (change(numbers=np.full((6, 4), -1)), r"group 004, row 5: atom 0 has atomic number -1"),
        (change(numbers=np.zeros((6, 4), int)), r"group 004, row 0: the structure has no atoms"),
        (change(coord=np.full((6, 4, 3), np.nan)), r"group 004, row 3: the coordinates of atom 0 are not finite"),
        (lambda: {"x": make_group(3, 5)}, r"'x' is not a group named by its number of atoms"),
        (lambda: {"004": make_group(3, 5)}, r"'numbers' has shape \(5, 3\), expected \(5, 4\)"),
        (lambda: {"003": make_group(3, 5), "3": make_group(3, 5)}, r"several groups have the same number of atoms"),
        (dict, r"has no groups"),
    ],
)
def test_another_layout_is_an_error_with_its_location(
    write: Write, groups: Callable[[], dict[Any, dict[str, Any]]], message: str
) -> None:
    path = write(groups())
    with pytest.raises(DataError, match=message) as error:
        read_fidelity(path, labels=("energy", "forces"))
    assert str(path) in str(error.value)


def test_a_file_that_does_not_exist_or_is_not_hdf5_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set .*absent\.h5"):
        read_fidelity(tmp_path / "absent.h5", labels=())
    (tmp_path / "text.h5").write_text("energy\n")
    with pytest.raises(DataError, match=r"text\.h5 is not an HDF5 file"):
        read_fidelity(tmp_path / "text.h5", labels=())
