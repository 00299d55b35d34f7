"""Files are read into arrays of the types that batches have."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aimnet2mult.data.layout import open_file
from support.labels import built_in
from support.small_groups import make_group
from support.whole_files import read_fidelity

ALL = ("energy", "forces", "charges", "spin_charges")

Write = Callable[..., Path]


def test_missing_charges_and_multiplicities_are_those_of_a_neutral_closed_shell(write: Write) -> None:
    arrays = make_group(4, 6)
    del arrays["charge"]
    dataset = read_fidelity(write({4: arrays}), labels=built_in("energy"), fidelity=2)
    assert set(dataset[4]["charge"]) == {0.0}
    assert set(dataset[4]["mult"]) == {1.0}
    assert set(dataset[4]["fidelity"]) == {2}


def test_charge_and_multiplicity_of_a_file_are_kept(write: Write) -> None:
    arrays = make_group(4, 6) | {"charge": np.array([0, 1, -1, 2, 0, 1]), "mult": np.array([1, 2, 3, 1, 2, 3])}
    dataset = read_fidelity(write({4: arrays}), labels=())
    assert dataset[4]["charge"].tolist() == [0, 1, -1, 2, 0, 1]
    assert dataset[4]["mult"].tolist() == [1, 2, 3, 1, 2, 3]


def test_infinite_labels_are_treated_as_missing_with_one_warning(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    groups = {n: make_group(n, 5, labels=ALL) for n in (3, 4)}
    groups[3]["forces"][1, 2, 0] = np.inf
    groups[4]["forces"][0, 0] = -np.inf
    groups[4]["charges"][0, 0] = np.nan
    with caplog.at_level(logging.WARNING):
        dataset = read_fidelity(write(groups), labels=built_in(*ALL))
    assert np.isnan(dataset[3]["forces"]).sum() == 1
    assert np.isnan(dataset[4]["forces"]).sum() == 3
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "4 values of forces are infinite and treated as missing (group 003, row 1; group 004, row 0)"
    ]


def test_arrays_of_any_type_are_converted(write: Write) -> None:
    arrays = make_group(4, 6, labels=("energy", "forces"))
    arrays = {
        key: array.astype(np.int64 if key in {"numbers", "mult"} else np.float64) for key, array in arrays.items()
    }
    group = read_fidelity(write({4: arrays}), labels=built_in("energy", "forces"))[4]
    types = {"numbers": np.int32, "fidelity": np.int64, "origin": np.int64, "energy": np.float64}
    assert {key: array.dtype for key, array in group.arrays.items()} == {
        key: np.dtype(types.get(key, np.float32)) for key in group.arrays
    }


def test_hdf5_keeps_few_decompressed_chunks_of_each_array(write: Write) -> None:
    # A file may have hundreds of arrays.
    with open_file(write({4: make_group(4, 6)})) as file:
        *_, size, _ = file.id.get_access_plist().get_cache()
    assert size <= 2**20
