"""Structures that may be both in training and in validation are reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aimnet2mult.data.checks import check_files
from aimnet2mult.data.duplicates import find_duplicates, hash_structures
from support.labels import built_in
from support.small_groups import make_group

Write = Callable[..., Path]


def rows(group: dict[str, Any], which: Any) -> dict[str, Any]:
    return {key: array[which] for key, array in group.items()}


def padded(group: dict[str, Any], number: int) -> dict[str, Any]:
    pad = {key: [(0, 0), (0, number), *[(0, 0)] * (group[key].ndim - 2)] for key in ("coord", "numbers")}
    return group | {key: np.pad(group[key], widths) for key, widths in pad.items()}


def warnings(files: list[Path], *val_files: Path) -> list[str]:
    return check_files(files, val_files, labels=built_in("energy")).warnings.lines()


def test_repetitions_in_a_file_that_will_be_split_are_reported(write: Write) -> None:
    path = write({3: make_group(3, 5), 4: rows(make_group(4, 6), [0, 1, 2, 3, 1, 5, 1])})
    assert warnings([path]) == [
        (
            f"{path}: 2 repeated structures, which may be both in training and in validation, "
            f"such as {path}, group 004, row 1 and {path}, group 004, row 4"
        )
    ]


def test_validation_structures_in_the_training_data_are_reported(write: Write) -> None:
    train = write({4: rows(make_group(4, 6), [0, 1, 2, 3, 1])}, "train.h5")
    val = write({4: rows(make_group(4, 6), [5, 2])}, "val.h5")
    # The repetition in the training data alone does no harm.
    assert warnings([train], val) == [
        f"{val}: 1 structure that is also in {train}: {train}, group 004, row 2 and {val}, group 004, row 1"
    ]


def test_padding_and_rounding_do_not_hide_a_duplicate(write: Write) -> None:
    group = make_group(4, 6)
    copy = padded(group, 2)
    copy["coord"] = copy["coord"].astype(np.float64)
    copy["coord"][:, 4:] = 7.0
    assert np.array_equal(hash_structures(group), hash_structures(copy))


def test_every_difference_makes_another_structure() -> None:
    group = make_group(4, 6)
    original = hash_structures(group)
    moved, exchanged, charged = (dict(group) for _ in range(3))
    moved["coord"] = group["coord"] + np.float32(0.002)
    exchanged["numbers"] = group["numbers"][:, ::-1]
    charged["charge"] = group["charge"] + 1
    mult = group | {"mult": np.full(6, 3)}
    differ = group["numbers"] != group["numbers"][:, ::-1]
    assert (hash_structures(moved) != original).all()
    assert (hash_structures(charged) != original).all()
    assert (hash_structures(mult) != original).all()
    assert np.array_equal(hash_structures(exchanged) != original, differ.any(axis=1))
    assert np.array_equal(hash_structures(group | {"mult": np.ones(6)}), original)


def test_pairs_refer_to_the_first_structure() -> None:
    pairs = find_duplicates(np.array([5, 3, 5, 9, 3, 5], np.uint64))
    assert sorted(map(tuple, pairs.tolist())) == [(0, 2), (0, 5), (1, 4)]
    assert find_duplicates(np.empty(0, np.uint64)).shape == (0, 2)


def test_many_similar_structures_have_different_hashes() -> None:
    rng = np.random.default_rng(0)
    steps = np.unique(rng.integers(0, 100, (30_000, 6)), axis=0)
    coord = np.zeros((len(steps), 3, 3))
    coord[:, 1:] = 0.001 * steps.reshape(-1, 2, 3)
    hashes = hash_structures({"numbers": np.full((len(steps), 3), 8), "coord": coord})
    assert len(np.unique(hashes)) == len(steps)
