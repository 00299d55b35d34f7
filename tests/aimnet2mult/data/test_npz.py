"""Folders of npz files are read like HDF5 files, and damaged or hostile ones are rejected with their place."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from aimnet.data import SizeGroupedDataset
from click.testing import CliRunner

from aimnet2mult.cli import cli
from aimnet2mult.config.merge import write_yaml
from aimnet2mult.config.schema import load
from aimnet2mult.data.checks import check_files
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.errors import ConfigError
from support.labels import built_in
from support.small_groups import make_group
from support.tiny_runs import train_tiny, write_data
from support.whole_files import read_fidelity
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Scalars

LABELS = ("energy", "forces", "charges")
Arrays = Mapping[str, np.ndarray[Any, Any]]
Write = Callable[..., Path]
SAVERS = (np.savez, np.savez_compressed)


def save(folder: Path, groups: Mapping[Any, Arrays], saver: Callable[..., None] = np.savez) -> Path:
    folder.mkdir(exist_ok=True)
    for size, arrays in groups.items():
        saver(folder / (f"{size:03d}.npz" if isinstance(size, int) else size), **arrays)
    return folder


def errors(folder: Path, **options: Any) -> list[str]:
    return check_files([folder], labels=built_in(*LABELS), **options).error_lines


def npy(shape: str, data: bytes = b"", dtype: str = "<f8") -> bytes:
    """Return an array in the format npy with a header that may be wrong."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def replace(path: Path, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Replace a member of an npz file."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**members, f"{name}.npy": content}.items():
            archive.writestr(member, data, compression if member == f"{name}.npy" else zipfile.ZIP_STORED)


@pytest.mark.parametrize("saver", SAVERS)
def test_the_same_structures_are_read_from_a_folder_and_from_hdf5(
    tmp_path: Path, write: Write, saver: Callable[..., None]
) -> None:
    # Several blocks, an array in Fortran order, a name of its own, units, and a bad structure.
    groups = {3: make_group(3, 20_000, labels=LABELS), 4: make_group(4, 30, labels=LABELS)}
    groups[3]["coord"] = np.asfortranarray(groups[3]["coord"])
    groups[3]["coord"][7, 1] = groups[3]["coord"][7, 0]
    for group in groups.values():
        group["E"] = group.pop("energy")
        group["other"] = np.zeros(len(group["E"]))
    file_format = FileFormat(names={"energy": "E"}, factors={"energy": 27.2})
    found, reports = [], []
    for path in (write(groups), save(tmp_path / "data", groups, saver)):
        report = check_files([path], labels=built_in(*LABELS), file_format=file_format)
        reports.append(str({**report.to_dict(), "files": report.files}).replace(str(path), "DATA"))
        skipped = report.skipped
        assert list(skipped) == [(str(path), "003")]
        found.append(read_fidelity(path, labels=built_in(*LABELS), file_format=file_format, skipped=skipped))
    assert reports[0] == reports[1]
    assert "DATA, group 003, row 7: atoms 0 and 1 are 0 Å apart" in reports[1]
    for size in (3, 4):
        first, second = (dataset[size].arrays for dataset in found)
        assert first.keys() == second.keys()
        for key, array in first.items():
            assert array.dtype == second[key].dtype
            assert array.tobytes() == second[key].tobytes()


def test_a_folder_written_by_the_data_set_class_of_the_original_is_read(tmp_path: Path) -> None:
    groups = {n: make_group(n, 5) for n in (2, 11)}
    SizeGroupedDataset(groups).save(str(tmp_path / "data"))
    dataset = read_fidelity(tmp_path / "data", labels=built_in("energy"))
    assert dataset.keys() == [2, 11]
    assert np.array_equal(dataset[11]["energy"], groups[11]["energy"])


def test_training_on_a_folder_is_bit_identical_to_training_on_hdf5(tmp_path: Path) -> None:
    curves, files = [], []
    for name in ("hdf5", "npz"):
        folder = tmp_path / name
        folder.mkdir()
        data = write_data(folder / "a.h5", 16, 0)
        if name == "npz":
            with h5py.File(data) as file:
                save(folder / "data", {int(size): {k: v[()] for k, v in group.items()} for size, group in file.items()})
        run = train_tiny(folder, *([f"data.fidelity_datasets.0={folder / 'data'}"] if name == "npz" else []))
        records = JournalReader(run).read(1000, live=False)
        times = ("it_per_s", "time")
        curves.append(
            [
                (r.stream, r.step, {k: v for k, v in r.values.items() if not k.endswith(times)})
                for r in records
                if isinstance(r, Scalars)
            ]
        )
        files.append([(run / "data.json").read_bytes(), *(path.read_bytes() for path in (run / "sae").iterdir())])
    assert len(curves[0]) > 4
    assert curves[0] == curves[1]
    assert files[0] == files[1]


def test_the_commands_accept_a_folder(tmp_path: Path, write: Write) -> None:
    groups = {n: make_group(n, 50) for n in (2, 3)}
    data, folder = write(groups), save(tmp_path / "data", groups)

    def run(*words: object) -> str:
        result = CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert run("check-data", folder).replace(str(folder), "") == run("check-data", data).replace(str(data), "")
    for name, path in (("a", data), ("b", folder)):
        run("calc-sae", path, tmp_path / f"{name}.yaml")
    assert (tmp_path / "a.yaml").read_text() == (tmp_path / "b.yaml").read_text()
    run("convert", folder, "-o", tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file) == ["002", "003"]
        assert np.array_equal(file["003/energy"][()], groups[3]["energy"])


def test_settings_name_folders_with_npz_files(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", {3: make_group(3, 5)})
    write_yaml(tmp_path / "train.yaml", {"data": {"fidelity_datasets": {0: "data"}}})
    assert load([tmp_path / "train.yaml"]).data.fidelity_datasets == {0: str(folder)}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"fidelity_datasets.0: the folder .*empty has no npz files named by numbers"):
        load([], [f"data.fidelity_datasets.0={tmp_path / 'empty'}"])
    with pytest.raises(ConfigError, match=r"003.npz is not an HDF5 file; give a folder of npz files"):
        load([], [f"data.fidelity_datasets.0={folder / '003.npz'}"])


def test_files_with_other_names_are_reported_and_hidden_ones_are_not_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", {3: make_group(3, 5), "train.npz": make_group(3, 5), "3.npz": make_group(3, 5)})
    (folder / "._003.npz").write_bytes(b"a resource fork")
    (folder / "README").touch()
    assert errors(folder) == [
        f"{folder / 'train.npz'} is not named by its number of atoms, such as 007.npz; rename or move it",
        f"{folder}: several groups have the same number of atoms: 003, 3",
    ]
    assert errors(save(tmp_path / "empty", {})) == [f"{tmp_path / 'empty'} has no files such as 007.npz"]


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no archive": (lambda path: path.write_bytes(b"energy\n"), r"cannot read .*003.npz: File is not a zip file"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-30]), r"cannot read .*003.npz: "),
    "objects": (
        lambda path: np.savez(path, **{**make_group(3, 5), "energy": np.array([{}] * 5)}, allow_pickle=True),
        r"group 003: 'energy' contains Python objects, which could execute code",
    ),
    "text": (
        lambda path: np.savez(path, **{**make_group(3, 5), "numbers": np.full((5, 3), "H")}),
        r"group 003: 'numbers' contains text; expected numbers",
    ),
    "a shape beyond the data": (
        lambda path: replace(path, "energy", npy("(1000000000,)")),
        r"group 003: 'energy' is damaged: it has 0 bytes, expected 8,000,000,000",
    ),
    "a negative shape": (
        lambda path: replace(path, "energy", npy("(-1, -5)", bytes(40))),
        r"group 003: 'energy' is damaged: it has 40 bytes, expected 40",
    ),
    "a link to nothing": (
        lambda path: path.unlink() or path.symlink_to("nothing"),
        r"cannot read .*003.npz: No such file or directory",
    ),
    "no header": (lambda path: replace(path, "energy", b"\x93NUMPY"), r"group 003: 'energy' is damaged: "),
    "another compression": (
        lambda path: replace(path, "energy", npy("(5,)", bytes(40)), zipfile.ZIP_LZMA),
        r"group 003: 'energy' is not compressed as by NumPy",
    ),
    "another number of rows": (
        lambda path: replace(path, "energy", npy("(4,)", bytes(32))),
        r"group 003: 'energy' has shape \(4,\), expected \(5,\)",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_an_error_with_its_place(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "data", {3: make_group(3, 5), 4: make_group(4, 5)})
    damage, message = DAMAGE[name]
    damage(folder / "003.npz")
    found = errors(folder)
    assert any(re.search(message, line) for line in found), found
    assert str(folder) in found[0]


def test_a_changed_byte_is_found_by_its_checksum(tmp_path: Path) -> None:
    groups = {3: make_group(3, 5000)}
    path = save(tmp_path / "data", groups) / "003.npz"
    stored = groups[3]["energy"].tobytes()
    path.write_bytes(path.read_bytes().replace(stored, stored[:-1] + bytes([stored[-1] ^ 1])))
    (line,) = errors(tmp_path / "data")
    assert line.startswith(f"{tmp_path / 'data'}, group 003, rows 0 to 4999: 'energy' cannot be read; restore the file")
    assert "Bad CRC-32" in line


def test_a_small_file_that_expands_to_a_large_one_is_rejected_without_expanding_it(tmp_path: Path) -> None:
    rows = 100_000_000  # coordinates of 3.6 GB
    path = save(tmp_path / "data", {3: make_group(3, 5)}) / "003.npz"
    shapes = {"coord": ((rows, 3, 3), 4, "<f4"), "numbers": ((rows, 3), 1, "|u1"), "energy": ((rows,), 4, "<f4")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, _, dtype) in shapes.items():
            archive.writestr(f"{name}.npy", npy(str(shape), dtype=dtype))
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as archive:
        data = bytearray(content.getvalue())
        for info in archive.infolist():
            shape, itemsize, _ = shapes[info.filename.removesuffix(".npy")]
            # The central directory states the size that the array would have.
            size = min(info.file_size + int(np.prod(shape)) * itemsize, 2**32 - 2)
            entry = data.rindex(info.filename.encode()) - 46
            data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    path.write_bytes(bytes(data))
    found = errors(tmp_path / "data")
    assert any("its coordinates have 3,600,000,000" in line for line in found), found
