"""Files of several fidelities are split and merged, with every structure in exactly one part."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import aimnet2mult
from aimnet2mult.data.dataset import INPUTS, DataSet
from aimnet2mult.data.loading import load_data
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.data.reference_energies import sum_references, write_sae
from aimnet2mult.errors import DataError
from support.labels import built_in
from support.small_groups import identities, make_group
from support.whole_files import read_fidelity

ALL = ("energy", "forces", "charges", "spin_charges")
SAMPLE = Path(aimnet2mult.__file__).parent / "sample"

Write = Callable[..., Path]


@pytest.fixture
def files(write: Write) -> list[Path]:
    """Return two files: one with energies and forces, one with charges only."""
    first = {n: make_group(n, count, labels=("energy", "forces")) for n, count in ((3, 21), (4, 14), (9, 6))}
    second = {n: make_group(n, count, labels=("charges",), seed=1) for n, count in ((3, 10), (5, 33))}
    return [write(first, "first.h5"), write(second, "second.h5")]


def load(files: list[Path], **options: Any) -> MixedData:
    settings = {"labels": built_in("energy", "forces", "charges"), "val_fraction": 0.25, "seed": 3, "batch_size": 4}
    return load_data(files, **{**settings, **options})


def identified(dataset: DataSet) -> Counter[tuple[int, int]]:
    """Count the structures by fidelity and identity."""
    return Counter(pair for g in dataset.groups for pair in zip(g["fidelity"].tolist(), identities(g), strict=True))


def test_every_structure_is_either_in_training_or_in_validation(files: list[Path]) -> None:
    data = load(files)
    expected = {
        (f, 100 * n + i)
        for f, n, count in ((0, 3, 21), (0, 4, 14), (0, 9, 6), (1, 3, 10), (1, 5, 33))
        for i in range(count)
    }
    assert identified(data.train) + identified(data.val) == Counter(expected)


def test_the_fraction_for_validation_holds_for_each_fidelity(files: list[Path]) -> None:
    data = load(files)
    assert data.val_counts == (round(41 / 4), round(43 / 4))
    assert data.train_counts == (41 - 10, 43 - 11)
    assert Counter(f for f, _ in identified(data.val).elements()) == {0: 10, 1: 11}


def test_the_fraction_for_validation_holds_for_each_size(files: list[Path]) -> None:
    sizes = {n: len(group) for n, group in load(files[:1], labels=built_in("energy")).val.items()}
    assert all(abs(sizes[n] - count / 4) <= 1 for n, count in ((3, 21), (4, 14), (9, 6)))


def test_the_fraction_holds_even_if_every_group_is_too_small_for_one_structure(write: Write) -> None:
    path = write({n: make_group(n, 1) for n in range(2, 42)})
    assert load([path], labels=built_in("energy"), val_fraction=0.1).val_counts == (4,)


def test_the_split_depends_only_on_the_seed(files: list[Path]) -> None:
    once = identified(load(files).val)
    assert identified(load(files).val) == once
    assert identified(load(files, batch_size=100).val) == once
    assert identified(load(files, seed=4).val) != once
    alone = identified(load(files[:1], labels=built_in("energy")).val)
    assert alone == Counter({pair: n for pair, n in once.items() if pair[0] == 0})


def test_a_fraction_of_zero_leaves_everything_for_training(files: list[Path]) -> None:
    data = load(files, val_fraction=0)
    assert (data.train_counts, data.val_counts, len(data.val)) == ((41, 43), (0, 0), 0)


def test_validation_files_leave_all_other_data_for_training(files: list[Path], write: Write) -> None:
    own = write({3: make_group(3, 5, seed=7)}, "val.h5")
    data = load(files, val_files={0: own})
    assert data.train_counts == load(files, val_fraction=0.0).train_counts
    assert data.val_counts == (5, 0)
    assert [set(group["fidelity"].tolist()) for group in data.val.groups] == [{0}]
    # Shifted by the reference energies of the training data.
    raw = read_fidelity(own, labels=built_in("energy"))[3]
    expected = raw["energy"] - sum_references(raw["numbers"], data.saes[0])
    assert np.array_equal(data.val[3]["energy"], expected.astype(np.float32))
    assert data.val[3]["energy"].dtype == np.float32


def test_validation_energies_are_missing_if_the_training_data_have_none(files: list[Path], write: Write) -> None:
    data = load(files, val_files={1: write({3: make_group(3, 5, labels=("energy", "charges"))}, "val.h5")})
    assert np.isnan(data.val[3]["energy"]).all()
    assert np.isfinite(data.val[3]["charges"]).all()


def test_a_validation_file_without_energies_is_used_for_its_other_labels(files: list[Path], write: Write) -> None:
    data = load(files, val_files={0: write({3: make_group(3, 5, labels=("forces",))}, "val.h5")})
    assert np.isnan(data.val[3]["energy"]).all()
    assert np.isfinite(data.val[3]["forces"]).all()


def test_a_validation_file_without_structures_is_an_error(files: list[Path], write: Write) -> None:
    with pytest.raises(DataError, match=r"val\.h5 has no structures"):
        load(files, val_files={0: write({3: make_group(3, 0)}, "val.h5")})


def test_a_training_file_without_structures_is_an_error(write: Write) -> None:
    validation = write({3: make_group(3, 5)}, "val.h5")
    with pytest.raises(DataError, match=r"train\.h5 has no structures"):
        load([write({3: make_group(3, 0)}, "train.h5")], labels=(), val_files={0: validation})


def test_an_element_without_a_reference_energy_in_a_validation_file_is_an_error(
    files: list[Path], write: Write
) -> None:
    group = make_group(3, 5)
    group["numbers"][:] = 9
    with pytest.raises(DataError, match=r"val.h5: no reference energy for F in 5 structures of group 003"):
        load(files, val_files={0: write({3: group}, "val.h5")})


def test_a_label_is_nan_exactly_for_the_fidelities_without_it(files: list[Path]) -> None:
    data = load(files)
    assert data.labels == (built_in("energy", "forces"), built_in("charges"))
    for dataset in (data.train, data.val):
        for group in dataset.groups:
            real = group["numbers"] != 0
            first = group["fidelity"] == 0
            assert np.array_equal(np.isfinite(group["energy"]), first)
            assert np.isfinite(group["forces"][first]).all()
            assert np.isnan(group["forces"][~first][real[~first]]).all()
            assert np.isnan(group["charges"][first][real[first]]).all()
            assert np.isfinite(group["charges"][~first]).all()


def test_groups_have_all_keys_in_the_types_of_a_batch(files: list[Path]) -> None:
    group = load(files).train.groups[0]
    assert set(group.arrays) == {*INPUTS, "origin", "energy", "forces", "charges"}
    types = {"numbers": np.int32, "fidelity": np.int64, "origin": np.int64}
    assert {k: v.dtype for k, v in group.arrays.items()} == {
        k: np.dtype(types.get(k, np.float32)) for k in group.arrays
    }


def test_small_groups_are_padded_and_merged_into_the_next_larger_one(files: list[Path]) -> None:
    data = load(files, val_fraction=0)
    assert {n: len(group) for n, group in data.train.items()} == {4: 45, 9: 39}
    raw = {n: read_fidelity(files[0], labels=built_in("forces"))[n] for n in (3, 4, 9)}
    group = data.train[4]
    for row, identity in enumerate(identities(group)):
        atoms, index = divmod(identity, 100)
        assert not group["numbers"][row, atoms:].any()
        assert not group["coord"][row, atoms:].any()
        if group["fidelity"][row] == 0:
            assert np.array_equal(group["numbers"][row, :atoms], raw[atoms]["numbers"][index])
            assert np.array_equal(group["coord"][row, :atoms], raw[atoms]["coord"][index])
            assert np.array_equal(group["forces"][row, :atoms], raw[atoms]["forces"][index])


def test_origins_name_the_structures_also_after_padding_and_skipping(files: list[Path], write: Write) -> None:
    val = write({3: make_group(3, 5, labels=("charges",), seed=9)}, "val.h5")
    skipped = {(str(files[0]), "004"): np.array([2, 5]), (str(val), "003"): np.array([0])}
    data = load(files, val_files={1: val}, skipped=skipped)
    assert (data.train_counts, data.val_counts) == ((41 - 2, 43), (0, 4))
    paths = {"train": files, "val": [files[0], val]}
    for part, dataset in (("train", data.train), ("val", data.val)):
        for group in dataset.groups:
            rows = zip(group["fidelity"], identities(group), data.locate(group["origin"]), strict=True)
            for fidelity, identity, place in rows:
                atoms, row = divmod(identity, 100)
                assert place == f"{paths[part][fidelity]}, group {atoms:03d}, row {row}"
    assert (0, 402) not in identified(data.train)
    assert (0, 403) in identified(data.train)


@pytest.mark.parametrize("of", [MixedData.fingerprint, MixedData.content_checksum])
def test_the_fingerprint_depends_on_the_training_structures(files: list[Path], of: Callable[[MixedData], int]) -> None:
    before = of(load(files))
    assert of(load(files)) == of(load([path.rename(path.with_suffix(".hdf5")) for path in files])) == before
    files = [path.with_suffix(".hdf5") for path in files]
    skipped = load(files, skipped={(str(files[0]), "004"): np.array([2])})
    others = [skipped, load(files, seed=4), load(files, sae_files={0: dict.fromkeys(range(1, 20), -1.0)})]
    assert len({before, *map(of, others)}) == 4


def test_the_checksum_of_a_file_depends_only_on_its_content(files: list[Path], write: Write) -> None:
    validation = write({3: make_group(3, 5, labels=("charges",), seed=9)}, "val.h5")
    data = load(files, val_files={1: validation})
    keys = [f"data.{part}.{index}" for part, index in (("fidelity_datasets", 0), ("fidelity_datasets", 1))]
    assert list(data.checksums) == [*keys, "data.val_fidelity_datasets.1"]
    moved = files[0].rename(files[0].with_name("moved.h5"))
    other = load([moved, files[1]], seed=4, batch_size=100, val_fraction=0.5)
    assert other.checksums == {key: data.checksums[key] for key in keys}
    with h5py.File(moved, "a") as file:
        file["009/forces"][5, 8, 2] += 1
    changed = load([moved, files[1]])
    assert changed.checksums[keys[0]] != data.checksums[keys[0]]
    assert changed.checksums[keys[1]] == data.checksums[keys[1]]


def test_groups_of_eight_batches_are_not_padded(files: list[Path]) -> None:
    """Structures of 3, 4, 5 and 9 atoms: 31, 14, 33 and 6, the last of which are merged into the ones before."""
    assert load(files, val_fraction=0, batch_size=1).train.keys() == [3, 4, 9]
    assert load(files, val_fraction=0, batch_size=9, batch_mode="atoms").train.keys() == [3, 9]


def test_given_reference_energies_are_subtracted(files: list[Path], tmp_path: Path) -> None:
    write_sae(tmp_path / "sae.yaml", {1: -10.0, 6: -1000.0, 8: -2000.0, 9: 7.0})
    data = load(
        files[:1], labels=built_in("energy"), val_fraction=0, batch_size=1, sae_files={0: tmp_path / "sae.yaml"}
    )
    raw = read_fidelity(files[0], labels=built_in("energy"))[3]
    table = np.zeros(64)
    table[[1, 6, 8]] = -10.0, -1000.0, -2000.0
    expected = raw["energy"] - table[raw["numbers"]].sum(axis=1)
    assert np.array_equal(data.train[3]["energy"], expected.astype(np.float32))
    assert data.saes == ({1: -10.0, 6: -1000.0, 8: -2000.0, 9: 7.0},)


def test_without_a_file_reference_energies_are_fitted_per_fidelity(write: Write) -> None:
    files = []
    for index, hydrogen in enumerate((-13.0, -14.0)):
        arrays = make_group(4, 50)
        arrays["energy"] = hydrogen * (arrays["numbers"] == 1).sum(axis=1)
        files.append(write({4: arrays}, f"{index}.h5"))
    data = load(files, labels=built_in("energy"))
    assert [sae[1] for sae in data.saes] == pytest.approx([-13.0, -14.0])
    assert np.abs(data.train[4]["energy"]).max() < 1e-4


def test_fidelities_with_different_elements_have_different_reference_energies(write: Write) -> None:
    files, energies = [], {1: -13.0, 6: -1030.0, 17: -12520.0}
    for index, elements in enumerate(([1, 6], [1, 17])):
        arrays = make_group(4, 50)
        arrays["numbers"] = np.random.default_rng(index).choice(elements, size=(50, 4))
        arrays["energy"] = np.vectorize(energies.get)(arrays["numbers"]).sum(axis=1)
        files.append(write({4: arrays}, f"{index}.h5"))
    first, second = load(files, labels=built_in("energy")).saes
    assert first == pytest.approx({1: -13.0, 6: -1030.0})
    assert second == pytest.approx({1: -13.0, 17: -12520.0})


def test_a_label_that_is_always_nan_is_missing(write: Write) -> None:
    arrays = make_group(4, 6) | {"forces": np.full((6, 4, 3), np.nan)}
    with pytest.raises(DataError, match=r"label 'forces' is not in the data set"):
        load([write({4: arrays})], labels=built_in("energy", "forces"))


def test_a_label_of_some_groups_is_a_label_of_the_fidelity(write: Write) -> None:
    without = make_group(3, 12) | {"energy": np.full(12, np.nan)}
    data = load([write({3: without, 4: make_group(4, 12)})], labels=built_in("energy"))
    assert data.labels == (built_in("energy"),)
    assert data.saes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, r"val_fraction is 1\.0; expected at least 0 and below 1"),
        ({"val_fraction": -0.1}, r"val_fraction is -0\.1"),
        ({"val_fraction": 1e-6}, r"of 84 structures leaves none for validation"),
        ({"val_fraction": 0.999}, r"leaves none for training"),
        (
            {"labels": built_in("energy", "spin_charges")},
            r"label 'spin_charges' is in none of the data sets .*first\.h5, .*second\.h5",
        ),
        ({"sae_files": {0: Path("absent.yaml")}}, r"cannot read the reference energies absent\.yaml"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_errors(files: list[Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(files, **options)


def test_no_files_are_an_error() -> None:
    with pytest.raises(DataError, match="no data set is given"):
        load([])


def test_the_sample_data_match_their_description() -> None:
    data = load_data(
        [SAMPLE / "gfn1.h5", SAMPLE / "spgfn2.h5"], labels=built_in(*ALL), val_fraction=0.1, seed=0, batch_size=32
    )
    assert np.add(data.train_counts, data.val_counts).tolist() == [6700, 4304]
    assert data.labels == (built_in(*ALL[:3]), built_in(*ALL))
    without = sum(
        int(np.isnan(group["forces"]).any(axis=(1, 2))[group["fidelity"] == 1].sum())
        for dataset in (data.train, data.val)
        for group in dataset.groups
    )
    assert without == 1040
    assert all(len(sae) == 10 for sae in data.saes)
