"""Files are checked completely: every problem is reported at once, with its place."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aimnet2mult.data.checks import check_files
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.report import Report
from aimnet2mult.errors import DataError
from support.labels import built_in
from support.small_groups import make_group
from support.whole_files import read_fidelity

Write = Callable[..., Path]
LABELS = ("energy", "forces")


def change(**arrays: Any) -> Callable[[], dict[Any, dict[str, Any]]]:
    """Return a function that writes two groups, replacing arrays of the second one, or removing them if None."""

    def groups() -> dict[Any, dict[str, Any]]:
        changed = {**make_group(4, 6), **arrays}
        return {3: make_group(3, 5), 4: {key: array for key, array in changed.items() if array is not None}}

    return groups


def row_of(values: np.ndarray[Any, Any], row: int, value: Any) -> np.ndarray[Any, Any]:
    """Return a float64 copy in which one row is replaced."""
    changed = values.astype(np.float64)
    changed[row] = value
    return changed


def check(*files: Path, **options: Any) -> Report:
    return check_files(files, labels=built_in(*LABELS), **options)


def errors(*files: Path, **options: Any) -> list[str]:
    report = check(*files, **options)
    return report.error_lines


# ---------------------------------------------------------------- layout

COORD, NUMBERS, CHARGE = (make_group(4, 6)[key] for key in ("coord", "numbers", "charge"))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (change(numbers=None), "group 004 has no 'numbers'; it has charge, coord, energy"),
        (change(coord=None), "group 004 has no 'coord'"),
        (change(energy=None), "group 003 has 'energy', but group 004 does not"),
        (change(forces=np.zeros((6, 4, 3))), "group 004 has 'forces', but group 003 does not"),
        (change(mult=np.ones(6)), "group 004 has 'mult', but group 003 does not"),
        (change(energy=np.zeros((6, 1))), "group 004: 'energy' has shape (6, 1), expected (6,)"),
        (change(charge=np.zeros((6, 1))), "'charge' has shape (6, 1), expected (6,)"),
        (change(energy=np.zeros(5)), "'energy' has shape (5,), expected (6,)"),
        (change(coord=np.zeros((6, 3, 3))), "'coord' has shape (6, 3, 3), expected (6, 4, 3)"),
        (change(numbers=np.float64(8)), "'numbers' has shape (), expected (6, 4)"),
        (change(energy=h5py.Empty("f8")), "group 004: 'energy' is empty"),
        (change(numbers=NUMBERS.astype("S2")), "group 004: 'numbers' contains text; expected numbers"),
        (change(numbers=np.full((6, 4), "O", object)), "'numbers' contains text"),
        (change(energy=np.zeros(6, complex)), "'energy' has type complex128; expected integers or floating-point"),
        (change(energy=np.zeros(6, bool)), "'energy' has type bool"),
        (change(charge=np.full(6, "0", object)), "'charge' contains text; expected numbers"),
        (change(energy=h5py.SoftLink("/absent")), "'energy' cannot be opened; it is damaged, or a link to"),
        (
            change(energy=h5py.ExternalLink("absent.h5", "/e")),
            "'energy' is a link to the file 'absent.h5', which is not",
        ),
        (
            change(energy=h5py.ExternalLink("a.h5", "/e"), numbers=None),
            "group 004: 'energy' is a link to the file 'a.h5'",
        ),
        (change(energy=np.dtype("f8")), "group 004: 'energy' is a data type; expected an array"),
        (change(energy=np.zeros(6, [("e", "f8")])), "'energy' has type [('e', '<f8')]; expected integers"),
        (change(energy=np.zeros(6, "V8")), "'energy' has type |V8; expected integers"),
        (lambda: {"9" * 5000: {}}, "9' is not a group named by its number of atoms"),
        (lambda: {"10001": make_group(3, 5)}, "group 10001 has more than 10,000 atoms"),
        (change(numbers=None, coord=None, charge=None, energy=None), "group 004 has no 'coord'; it is empty"),
        (lambda: {"x": make_group(3, 5)}, "'x' is not a group named by its number of atoms"),
        (lambda: {"000": {}}, "'000' is not a group named by its number of atoms"),
        (lambda: {"004": make_group(3, 5)}, "'numbers' has shape (5, 3), expected (5, 4)"),
        (lambda: {"003": make_group(3, 5), "3": make_group(3, 5)}, "several groups have the same number of atoms: 003"),
        (dict, "has no groups"),
        (lambda: {3: make_group(3, 0), 4: make_group(4, 0)}, "data.h5 has no structures"),
    ],
)
def test_another_layout_is_an_error_with_its_location(
    write: Write, groups: Callable[[], dict[Any, dict[str, Any]]], message: str
) -> None:
    path = write(groups())
    found = errors(path)
    assert any(message in line and str(path) in line for line in found), found
    with pytest.raises(DataError):
        read_fidelity(path, labels=built_in(*LABELS))


def test_a_group_in_place_of_an_array_and_an_array_in_place_of_a_group(write: Write) -> None:
    path = write({3: make_group(3, 5)})
    with h5py.File(path, "a") as file:
        del file["003/energy"]
        file["003/energy/total"] = np.zeros(5)
        file["004"] = np.zeros(5)
        file["005"] = h5py.SoftLink("/nowhere")
    assert errors(path) == [
        f"{path}: '004' is not a group named by its number of atoms, such as '007'",
        f"{path}: '005' cannot be opened; it is damaged, or a link to an object that does not exist in this file",
        f"{path}, group 003: 'energy' is a group; expected an array",
    ]


def test_an_empty_group_among_others_is_accepted(write: Write) -> None:
    path = write({3: make_group(3, 0), 4: make_group(4, 6)})
    assert errors(path) == []
    assert read_fidelity(path, labels=built_in(*LABELS)).keys() == [4]


def test_files_that_cannot_be_opened_are_all_reported(write: Write, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("energy\n")
    (tmp_path / "folder.h5").mkdir()
    whole = write({3: make_group(3, 500)}, "whole.h5")
    (tmp_path / "short.h5").write_bytes(whole.read_bytes()[:5000])
    absent, text, folder, short = (tmp_path / f"{name}.h5" for name in ("absent", "text", "folder", "short"))
    found = errors(absent, text, folder, short)
    assert found[:2] == [f"no data set {absent}", f"{text} is not an HDF5 file"]
    assert found[2].startswith(f"cannot read {short}: ")
    assert "truncated file" in found[2]
    assert found[3] == f"{folder} has no files such as 007.npz"


def test_a_file_that_another_program_writes_is_locked(write: Write) -> None:
    path = write({3: make_group(3, 5)})
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert errors(path) == [f"{path} is locked: another program has opened it for writing; close it there first"]


def test_a_file_without_read_permission_is_an_error(write: Write) -> None:
    path = write({3: make_group(3, 5)})
    path.chmod(0)
    # Root may read everything unless it gives up the right.
    code = f"""
import ctypes, sys
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
import os
os.execv(sys.executable, [sys.executable, "-m", "aimnet2mult.cli", "check-data", {str(path)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    if "no errors" in done.stdout:
        pytest.skip("root can read everything here")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"error: cannot read {path}: Permission denied" in done.stdout


@pytest.mark.parametrize("key", ["forces", "coord", "numbers"])
def test_a_damaged_chunk_is_an_error_with_its_place(write: Write, key: str) -> None:
    path = write({3: make_group(3, 60, labels=LABELS)})
    with h5py.File(path, "a") as file:
        values = file[f"003/{key}"][:]
        del file[f"003/{key}"]
        new = file.create_dataset(f"003/{key}", data=values, chunks=(20, *values.shape[1:]), compression="gzip")
        offset = new.id.get_chunk_info(1).byte_offset
    with path.open("r+b") as file:
        file.seek(offset + 10)
        file.write(b"\xff" * 100)
    (message,) = errors(path)
    assert message.startswith(
        f"{path}, group 003, rows 0 to 59: {key!r} cannot be read; restore the file from a copy ("
    )
    with pytest.raises(DataError, match=f"'{key}' cannot be read"):
        read_fidelity(path, labels=built_in(*LABELS), skipped={})


def test_damage_anywhere_in_the_headers_never_ends_in_another_exception(write: Write) -> None:
    path = write({3: make_group(3, 5), 4: make_group(4, 5)})
    whole = path.read_bytes()
    reported = 0
    for offset in range(0, 4000, 40):
        path.write_bytes(whole[:offset] + b"\xa5" * 12 + whole[offset + 12 :])
        reported += not check(path).ok
    assert reported > 20


# ---------------------------------------------------------------- structures


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"numbers": row_of(NUMBERS, 2, [1, 8, 119, 1])}, "atom 2 has atomic number 119; supported are 1 to 118"),
        ({"numbers": row_of(NUMBERS, 2, [1, 8, 1, -1])}, "atom 3 has atomic number -1; supported are 1 to 118"),
        ({"numbers": row_of(NUMBERS, 2, [6.5, 8, 1, 1])}, "atom 0 has atomic number 6.5"),
        ({"numbers": row_of(NUMBERS, 2, [1, np.nan, 1, 1])}, "atom 1 has atomic number nan"),
        ({"numbers": row_of(NUMBERS, 2, 0).astype(np.uint8)}, "the structure has no atoms"),
        ({"coord": row_of(COORD, (2, 1), np.nan)}, "the coordinates of atom 1 are not finite"),
        ({"coord": row_of(COORD, (2, 1, 2), -np.inf)}, "the coordinates of atom 1 are not finite"),
        ({"coord": row_of(COORD, (2, 3, 0), -2e4)}, "atom 3 has a coordinate of 2e+04 Å, beyond 10,000 Å"),
        ({"coord": row_of(COORD, (2, 3), COORD[2, 1])}, "atoms 1 and 3 are 0 Å apart, closer than 0.3 Å"),
        ({"charge": row_of(CHARGE, 2, np.nan)}, "charge is nan; expected an integer from -100 to 100"),
        ({"charge": row_of(CHARGE, 2, 0.5)}, "charge is 0.5; expected an integer"),
        ({"charge": row_of(CHARGE, 2, -1e30)}, "charge is -1e+30; expected an integer"),
        ({"mult": row_of(np.ones(6), 2, np.inf)}, "mult is inf; expected an integer from 1 to 100"),
        ({"mult": row_of(np.ones(6), 2, 1.5)}, "mult is 1.5; expected an integer"),
        ({"mult": row_of(np.ones(6), 2, 0)}, "mult is 0; expected an integer"),
        ({"mult": row_of(np.ones(6), 2, 1e30)}, "mult is 1e+30; expected an integer"),
    ],
)
def test_a_bad_structure_is_reported_with_file_group_and_row(
    write: Write, arrays: dict[str, Any], message: str
) -> None:
    path = write({4: make_group(4, 6) | arrays})
    (found,) = errors(path)
    assert found.startswith(f"{path}, group 004, row 2: {message}")
    assert {key: rows.tolist() for key, rows in check(path).skipped.items()} == {(str(path), "004"): [2]}


def test_an_element_that_the_model_does_not_support_is_reported_with_the_remedy(write: Write) -> None:
    path = write({4: make_group(4, 6) | {"numbers": row_of(NUMBERS, 2, [1, 8, 78, 1])}})
    assert check(path).ok
    assert check(path, max_element=78).ok
    (found,) = errors(path, max_element=63)
    assert found == (
        f"{path}, group 004, row 2: atom 2 has atomic number 78; supported are 1 to 63, and 0 for padding; "
        "for more, set max_z: 128 in the definition of the model"
    )


def test_labels_with_several_components_per_structure_are_counted(write: Write) -> None:
    dipole = np.ones((6, 3))
    dipole[1] = np.nan
    dipole[2, :2] = np.nan
    path = write({n: make_group(n, 6) | {"dipole": dipole} for n in (3, 4)})
    report = check_files([path], labels=built_in("energy", "dipole"))
    assert report.ok
    assert report.files[0].labels == {"energy": 12, "dipole": 10}


def test_the_closest_atoms_are_named_also_next_to_padding_and_bad_atoms(write: Write) -> None:
    arrays = make_group(5, 6)
    arrays["numbers"][2, 4] = 0
    arrays["coord"][2, 1] = np.nan
    arrays["coord"][2, 3] = arrays["coord"][2, 0] + [0, 0.1, 0.1]
    (pair,) = (line for line in errors(write({5: arrays})) if "apart" in line)
    assert "row 2: atoms 0 and 3 are 0.141 Å apart" in pair


def test_padding_may_have_any_coordinates(write: Write) -> None:
    arrays = make_group(5, 4)
    arrays["numbers"][:, 3:] = 0
    arrays["coord"][0, 3:] = np.nan
    arrays["coord"][1, 3:] = 1e30
    arrays["coord"][2, 3:] = arrays["coord"][2, :2]
    assert errors(write({5: arrays})) == []


def test_charges_summed_from_atomic_charges_count_as_integers(write: Write) -> None:
    assert errors(write({4: make_group(4, 6) | {"charge": np.full(6, -0.9999)}})) == []


def test_the_smallest_distance_is_a_setting(write: Write) -> None:
    arrays = make_group(4, 6)
    arrays["coord"][3, 2] = arrays["coord"][3, 0] + [0.0, 0.0, 0.4]
    path = write({4: arrays})
    assert errors(path) == []
    assert len(errors(path, min_distance=0.41)) == 1
    arrays["coord"][3, 2] = arrays["coord"][3, 0]
    assert errors(write({4: arrays}), min_distance=0) == []


def test_a_multiplicity_that_contradicts_the_electrons_is_a_warning(write: Write) -> None:
    # O, H, H, H: 11 electrons; with charge 1: 10.
    arrays = make_group(4, 6) | {"numbers": np.tile([8, 1, 1, 1], (6, 1))}
    arrays |= {"charge": np.array([0, 0, 1, 1, 0, 0]), "mult": np.array([2, 1, 1, 2, 14, 4])}
    report = check(write({4: arrays}))
    assert report.ok
    assert [line.partition(", ")[2] for line in report.warnings.lines()] == [
        "group 004, row 1: mult 1 is impossible with 11 electrons; check charge and mult",
        "group 004, row 3: mult 2 is impossible with 10 electrons; check charge and mult",
        "group 004, row 4: mult 14 is impossible with 11 electrons; check charge and mult",
    ]


def test_all_problems_of_all_files_are_in_one_exception(write: Write) -> None:
    one = write({3: make_group(3, 5), 4: make_group(4, 6) | {"mult": row_of(np.ones(6), 1, 0)}}, "one.h5")
    two = write({4: make_group(4, 40) | {"charge": np.full(40, np.nan)}}, "two.h5")
    three = write({4: make_group(4, 6, seed=3) | {"energy": np.zeros(5)}}, "three.h5")
    with pytest.raises(DataError) as error:
        check(one, two, three).raise_errors()
    head, *lines = str(error.value).splitlines()
    assert head.startswith("the data have ")
    assert head.endswith("or leave them out with data.on_bad_structure=skip:")
    text = "\n".join(lines)
    assert f"{three}, group 004: 'energy' has shape (5,), expected (6,)" in text
    assert f"{one}: group 004 has 'mult', but group 003 does not" in text
    assert f"{one}, group 004, row 1: mult is 0" in text
    assert text.count("charge is nan") == 20
    assert "and 20 more: invalid charge" in text


def test_errors_of_files_remain_if_bad_structures_are_skipped(write: Write) -> None:
    bad = write({4: make_group(4, 6) | {"charge": row_of(CHARGE, 0, np.nan)}}, "bad.h5")
    check(bad).raise_errors("skip")
    with pytest.raises(DataError, match=r"none\.h5 has no structures"):
        check(bad, write({4: make_group(4, 0)}, "none.h5")).raise_errors("skip")
    with pytest.raises(DataError, match=r"only\.h5: all structures are bad"):
        check(write({4: make_group(4, 6) | {"charge": np.full(6, np.nan)}}, "only.h5")).raise_errors("skip")


def test_bad_structures_that_are_kept_are_no_errors(write: Write) -> None:
    report = check(write({4: make_group(4, 6) | {"mult": np.zeros(6)}}))
    report.raise_errors("keep")
    assert report.error_lines[0].endswith("all structures are bad; check data.units and data.keys")


def test_charges_may_be_of_any_type_of_numbers(write: Write) -> None:
    for dtype in (np.bool_, np.uint8, np.int8, ">i4", np.float16):
        charge = np.array([0, 1, 0, 1, 0, 1]).astype(dtype)
        path = write({4: make_group(4, 6) | {"charge": charge, "mult": 1 + charge.astype(int)}})
        assert not check(path).error_lines
        assert read_fidelity(path, labels=built_in(*LABELS))[4]["charge"].tolist() == [0, 1, 0, 1, 0, 1]


def test_a_structure_with_several_problems_is_listed_once_in_the_table_of_skipped_ones(write: Write) -> None:
    arrays = make_group(4, 6) | {"charge": row_of(CHARGE, 3, np.nan)}
    arrays["coord"][3, 1] = arrays["coord"][3, 0]
    arrays["coord"][1, 0] = np.nan
    path = write({4: arrays})
    report = check(path)
    assert report.bad_count == 2
    assert report.csv().splitlines() == [
        "file,group,row,reason",
        f"{path},004,1,coordinates that are not finite",
        f"{path},004,3,atoms closer than 0.3 Å; invalid charge",
    ]


def test_missing_labels_are_reported_together(write: Write) -> None:
    files = [write({3: make_group(3, 5)}, "a.h5"), write({4: make_group(4, 6, labels=LABELS)}, "b.h5")]
    labels = ("energy", "forces", "charges", "spin_charges")
    report = check_files(files, labels=built_in(*labels), required=built_in(*labels))
    assert report.errors.lines() == [
        (
            f"labels 'charges', 'spin_charges' are in none of the data sets {files[0]}, {files[1]}; "
            "leave them out: data.y=[energy,forces], or give their names with data.keys"
        )
    ]


def test_a_missing_label_is_given_with_its_name_in_the_files(write: Write) -> None:
    path = write({3: make_group(3, 5)})
    file_format = FileFormat(names={"forces": "F_b97m"})
    report = check_files([path, path], labels=built_in("forces"), required=built_in("forces"), file_format=file_format)
    assert report.errors.lines() == [
        (
            f"label 'forces' (data.keys: 'F_b97m') is not in the data set {path}; "
            "give its name with data.keys (other arrays: energy)"
        )
    ]


def test_a_file_that_is_given_twice_is_checked_once(write: Write) -> None:
    group = make_group(4, 6)
    path = write({4: group | {"charge": row_of(np.zeros(6), 2, np.nan)}})
    for report in (
        check_files([path, path], labels=built_in("energy")),
        check_files([path], [path], labels=built_in("energy")),
    ):
        assert len(report.bad_structures) == 1
        assert report.csv().splitlines()[1:] == [f"{path},004,2,invalid charge"]
        assert report.warnings.lines() == [
            f"{path} is given twice, so its structures may be both in training and in validation"
        ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble, ">f8"])
def test_any_floating_point_type_is_checked_without_overflow(write: Write, dtype: Any) -> None:
    group = make_group(4, 6)
    arrays = {key: values.astype(dtype) for key, values in group.items() if key != "energy"}
    arrays["coord"] += np.dtype(dtype).type(200)
    energy = row_of(group["energy"].astype(np.float64), 0, 1e300)
    report = check(write({4: arrays | {"energy": energy}}))
    assert report.ok
    assert not any("repeated" in line for line in report.warnings.lines())


def test_files_are_read_in_blocks_with_the_same_result(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = make_group(4, 90, labels=LABELS) | {"charge": row_of(np.zeros(90), 77, 0.5)}
    path = write({4: arrays})
    whole = check(path)
    with h5py.File(path, "a") as file:
        for key in ("coord", "forces"):
            values = file[f"004/{key}"][:]
            del file[f"004/{key}"]
            file.create_dataset(f"004/{key}", data=values, chunks=(7, 4, 3), compression="gzip")
    monkeypatch.setattr("aimnet2mult.data.layout.BLOCK_ATOMS", 30)
    blocks = check(path)
    assert blocks.to_dict() == {**whole.to_dict(), "files": blocks.to_dict()["files"]}
    assert blocks.files[0].energies == whole.files[0].energies
    assert blocks.files[0].force_rms == pytest.approx(whole.files[0].force_rms)
    dataset = read_fidelity(path, labels=built_in(*LABELS), skipped=blocks.skipped)
    assert np.array_equal(dataset[4]["forces"], np.delete(arrays["forces"], 77, axis=0).astype(np.float32))
    assert dataset[4]["origin"].tolist() == [row for row in range(90) if row != 77]
