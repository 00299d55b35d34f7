"""What the checks find in a file is what reading it would find."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aimnet2mult.data.checks import check_files
from aimnet2mult.data.dataset import DataSet
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.quantities import INPUTS
from support.labels import built_in
from support.small_groups import make_group
from support.whole_files import read_fidelity

LABELS = built_in("energy", "forces", "charges", "dipole")
KEYS = sorted([*INPUTS, "fidelity", *(label.name for label in LABELS)])
FORMATS = {"as stored": FileFormat(), "converted": FileFormat(factors={"energy": 27.2, "forces": 51.4})}

Write = Callable[..., Path]


@pytest.fixture
def path(write: Write) -> Path:
    """Return a file with two bad structures, missing and infinite labels, and without charges and dipoles."""
    groups = {n: make_group(n, count, labels=("energy", "forces")) for n, count in ((2, 7), (3, 30_000), (5, 11))}
    groups[2]["coord"][3, 0] = groups[2]["coord"][3, 1]
    groups[3]["coord"][:, 0, 0] = 0
    groups[3]["numbers"][29_000] = 250
    groups[3]["energy"][:5] = np.nan, np.inf, 1.0, -np.inf, np.nan
    groups[5]["forces"][2] = np.nan
    return write(groups)


def checksum(dataset: DataSet, keys: list[str], *, named: bool) -> int:
    """Return the checksum of arrays, one after the other."""
    crc = 0
    for group in dataset.groups:
        for key in keys:
            crc = zlib.crc32(group[key].tobytes(), zlib.crc32(key.encode(), crc) if named else crc)
    return crc


@pytest.mark.parametrize("without_bad", [False, True])
@pytest.mark.parametrize("file_format", FORMATS.values(), ids=FORMATS)
def test_checksums_are_those_of_the_arrays_that_are_read(
    path: Path, file_format: FileFormat, *, without_bad: bool
) -> None:
    report = check_files([path], labels=LABELS, file_format=file_format)
    content = report.contents[str(path)]
    skipped = report.skipped if without_bad else {}
    assert content.bad.tolist() == [3, 7 + 29_000]
    read = read_fidelity(path, labels=LABELS, fidelity=4, file_format=file_format, skipped=skipped)
    assert content.checksum(LABELS, 4, without_bad=without_bad) == checksum(read, KEYS, named=True)
    assert content.input_checksum(without_bad=without_bad) == checksum(read, list(INPUTS), named=False)


@pytest.mark.parametrize("file_format", FORMATS.values(), ids=FORMATS)
def test_energies_and_compositions_are_those_of_the_structures(path: Path, file_format: FileFormat) -> None:
    report = check_files([path], labels=LABELS, file_format=file_format)
    content = report.contents[str(path)]
    read = read_fidelity(path, labels=LABELS, file_format=file_format, skipped=report.skipped)
    energy = np.concatenate([group["energy"] for group in read.groups])
    assert np.array_equal(content.energy[content.good], energy, equal_nan=True)
    assert np.isnan(content.energy[7:12]).tolist() == [True, True, False, True, True]
    for index, z in enumerate(content.elements):
        numbers = [(group["numbers"] == z).sum(axis=1) for group in read.groups]
        assert np.array_equal(content.counts[content.composition[content.good], index], np.concatenate(numbers))
    known = {label.name: content.known(label.name, without_bad=True) for label in LABELS}
    assert known == {"energy": True, "forces": True, "charges": False, "dipole": False}


def test_a_label_of_bad_structures_only_is_known_only_with_them(write: Write) -> None:
    group = make_group(2, 5)
    group["energy"][1:] = np.nan
    group["coord"][0, 0] = group["coord"][0, 1]
    path = write({2: group})
    content = check_files([path], labels=LABELS).contents[str(path)]
    assert [content.known("energy", without_bad=without) for without in (False, True)] == [True, False]


def test_a_file_whose_content_is_known_is_not_read_and_gives_the_same_report(path: Path, write: Write) -> None:
    other = write({3: make_group(3, 9), 2: make_group(2, 7, labels=("energy", "forces"))}, "other.h5")
    first = check_files([path, other], labels=LABELS)
    path.unlink()
    again = check_files([path, other], labels=LABELS, known=first.contents)
    assert again.to_dict() == first.to_dict()
    assert again.skipped.keys() == first.skipped.keys()
