"""The split of the data is drawn at random, stored, and used again for the same files."""

import io
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimnet2mult.data.loading import load_data
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.data.split import LEFT_OUT, Part, read_split, write_split
from aimnet2mult.errors import DataError
from support.labels import built_in
from support.small_groups import identities, make_group

Write = Callable[..., Path]


@pytest.fixture
def files(write: Write) -> list[Path]:
    first = {n: make_group(n, count) for n, count in ((3, 21), (4, 14), (9, 6))}
    second = {n: make_group(n, count, seed=1) for n, count in ((3, 10), (5, 33))}
    return [write(first, "first.h5"), write(second, "second.h5")]


def load(files: list[Path], **options: Any) -> MixedData:
    settings = {"labels": built_in("energy"), "val_fraction": 0.25, "seed": 3, "batch_size": 4}
    return load_data(files, **{**settings, **options})


def members(data: MixedData) -> list[Counter[tuple[int, int]]]:
    """Return the fidelity and identity of the structures for training, validation and test."""
    return [
        Counter(pair for g in part.groups for pair in zip(g["fidelity"].tolist(), identities(g), strict=True))
        for part in (data.train, data.val, data.test)
    ]


def test_every_structure_is_in_one_part_and_the_fractions_hold(files: list[Path]) -> None:
    data = load(files, test_fraction=0.2)
    train, val, test = members(data)
    sizes = ((0, 3, 21), (0, 4, 14), (0, 9, 6), (1, 3, 10), (1, 5, 33))
    assert train + val + test == Counter((f, 100 * n + i) for f, n, count in sizes for i in range(count))
    assert data.test_counts == (round(41 * 0.2), round(43 * 0.2))
    assert data.val_counts == (round(41 / 4), round(43 / 4))


def test_the_test_structures_do_not_depend_on_the_fraction_for_validation(files: list[Path]) -> None:
    tests = [members(load(files, test_fraction=0.2, val_fraction=fraction))[2] for fraction in (0, 0.1, 0.5)]
    assert tests[0] == tests[1] == tests[2]
    assert members(load(files, test_fraction=0.2, seed=4))[2] != tests[0]


def test_test_files_leave_the_split_into_training_and_validation_as_it_is(files: list[Path], write: Write) -> None:
    own = write({3: make_group(3, 5, seed=7)}, "test.h5")
    data = load(files, test_files={1: own}, test_fraction=0.5)
    assert members(data)[:2] == members(load(files))[:2]
    assert data.test_counts == (0, 5)
    assert data.locate(data.test[3]["origin"][:1]) == [f"{own}, group 003, row 0"]
    assert "data.test_fidelity_datasets.1" in data.checksums


def test_a_stored_split_gives_the_same_parts_with_other_seeds_fractions_and_labels(
    files: list[Path], tmp_path: Path
) -> None:
    data = load(files, test_fraction=0.2)
    write_split(tmp_path / "split.npz", data.splits)
    again = load(files, labels=(), seed=9, val_fraction=0.7, split_file=tmp_path / "split.npz")
    assert members(again) == members(data)
    # Another order of the files, and only one of them.
    alone = load(files[1:], split_file=tmp_path / "split.npz")
    assert [sorted(i for _, i in part) for part in members(alone)] == [
        sorted(i for fidelity, i in part if fidelity) for part in members(data)
    ]


def test_the_file_contains_the_part_of_each_row_as_plain_numpy_arrays(files: list[Path], tmp_path: Path) -> None:
    data = load(files, test_fraction=0.2)
    write_split(tmp_path / "split.npz", data.splits)
    with np.load(tmp_path / "split.npz") as arrays:
        parts = arrays["parts_0"]
    # The rows of the file: 21 structures of 3 atoms, 14 of 4, 6 of 9.
    names = [*range(300, 321), *range(400, 414), *range(900, 906)]
    for part, expected in zip((0, 1, 2), members(data), strict=True):
        assert [names[row] for row in np.flatnonzero(parts == part)] == sorted(i for f, i in expected if f == 0)


def test_structures_that_are_left_out_have_no_part(files: list[Path], tmp_path: Path) -> None:
    skipped = {(str(files[0]), "003"): np.array([2, 5])}
    data = load(files[:1], skipped=skipped)
    assert np.flatnonzero(data.splits[0].parts == LEFT_OUT).tolist() == [2, 5]
    write_split(tmp_path / "split.npz", data.splits)
    assert members(load(files[:1], skipped=skipped, split_file=tmp_path / "split.npz")) == members(data)
    with pytest.raises(DataError, match=r"other structures are left out; use the same data\.min_distance"):
        load(files[:1], split_file=tmp_path / "split.npz")


def test_a_split_of_other_files_is_an_error_that_names_both(files: list[Path], write: Write, tmp_path: Path) -> None:
    split = tmp_path / "split.npz"
    write_split(split, load(files).splits)
    shorter = write({3: make_group(3, 20)}, "shorter.h5")
    with pytest.raises(DataError, match=rf"{split} is not that of {shorter}: it has 20 structures, .* have 41, 43"):
        load([shorter], split_file=split)
    same_size = write({n: make_group(n, count, seed=5) for n, count in ((3, 21), (4, 14), (9, 6))}, "other.h5")
    with pytest.raises(DataError, match=rf"{split} is not that of {same_size}: it contains other structures"):
        load([same_size], split_file=split)


def test_a_split_with_a_test_set_and_test_files_are_an_error(files: list[Path], tmp_path: Path) -> None:
    write_split(tmp_path / "split.npz", load(files, test_fraction=0.2).splits)
    with pytest.raises(DataError, match=r"data\.test_fidelity_datasets is set, but the split in .* has such"):
        load(files, split_file=tmp_path / "split.npz", test_files={0: files[0]})


def test_a_part_without_structures_is_an_error(files: list[Path]) -> None:
    with pytest.raises(DataError, match=r"val_fraction 0\.25 and test_fraction 1e-06 .* leaves none for the test"):
        load(files, test_fraction=1e-6)
    with pytest.raises(DataError, match=r"val_fraction 0\.5 and test_fraction 0\.5 leave nothing for training"):
        load(files, val_fraction=0.5, test_fraction=0.5)
    assert load(files, val_fraction=0).val_counts == (0, 0)


def test_a_fidelity_without_training_structures_is_an_error(files: list[Path], tmp_path: Path) -> None:
    first, second = load(files).splits
    only_val = replace(second, parts=np.where(second.parts == Part.TRAIN, Part.VAL, second.parts).astype(np.uint8))
    write_split(tmp_path / "split.npz", (first, only_val))
    with pytest.raises(DataError, match=r"split\.npz leaves none of the structures of fidelity 1 for training"):
        load(files, split_file=tmp_path / "split.npz")


def _archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def _npy(value: Any, **header: Any) -> bytes:
    buffer = io.BytesIO()
    if header:
        np.lib.format.write_array_header_1_0(buffer, header)
    else:
        np.lib.format.write_array(buffer, np.asarray(value))
    return buffer.getvalue()


class _Harmful:
    def __reduce__(self) -> Any:
        return pytest.fail, ("the code of the file was executed",)


HOSTILE = {
    "a pickle": pickle.dumps(_Harmful()),
    "pickled objects": _archive(format=_npy(np.array([_Harmful()], object))),
    "no archive": b"split",
    "an empty file": b"",
    "a truncated archive": _archive(format=_npy(1))[:-8],
    "no arrays": _archive(),
    "another format": _archive(format=_npy(2)),
    "checksums of another type": _archive(format=_npy(1), checksums=_npy([1.0])),
    "a missing array": _archive(format=_npy(1), checksums=_npy(np.array([1], np.uint32))),
    "unknown parts": _archive(
        format=_npy(1), checksums=_npy(np.array([1], np.uint32)), parts_0=_npy(np.array([7], np.uint8))
    ),
    "an array larger than its data": _archive(
        format=_npy(1),
        checksums=_npy(np.array([1], np.uint32)),
        parts_0=_npy(None, descr="|u1", fortran_order=False, shape=(10**15,)),
    ),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "split.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"split\.npz is not the split of a run: ."):
        read_split(tmp_path / "split.npz")


def test_a_file_that_expands_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.npz"
    zeros = _archive(parts_0=bytes(1000))
    # The declared size in the central directory, after which the reader decompresses.
    path.write_bytes(zeros.replace((1000).to_bytes(4, "little"), (2**32 - 2).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"its arrays have 4,294,967,294 bytes; expected up to"):
        read_split(path)


def test_a_missing_file_and_a_link_are_errors(tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "split.npz")
    for name in ("split.npz", "link.npz"):
        with pytest.raises(DataError, match=rf"cannot read the split .*{name}"):
            read_split(tmp_path / name)


def test_parts_are_counted(files: list[Path]) -> None:
    split = load(files, test_fraction=0.2).splits[0]
    assert [split.count(part) for part in Part] == [23, 10, 8]
