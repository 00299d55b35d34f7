"""HDF5 files do not make the trainer read other files, wait, or run out of memory."""

import os
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from aimnet2mult.data import layout
from aimnet2mult.data.checks import check_files
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.layout import SizeGroup, open_file
from aimnet2mult.errors import DataError
from support.damage_cases import hdf5_reader
from support.labels import built_in
from support.small_groups import make_group
from support.whole_files import read_fidelity

Write = Callable[..., Path]
Change = Callable[[h5py.File, Path], object]
ROWS = 5
NOT_READ = "which is not read unless data.allow_external=true"


def replace_energy(file: h5py.File) -> h5py.Group:
    del file["003/energy"]
    group: h5py.Group = file["003"]
    return group


def link_energy(file: h5py.File, other: Path) -> None:
    replace_energy(file)["energy"] = h5py.ExternalLink(other, "/003/energy")


def link_group(file: h5py.File, other: Path) -> None:
    del file["003"]
    file["003"] = h5py.ExternalLink(other, "/003")


def link_through(file: h5py.File, other: Path) -> None:
    file["003/other"] = h5py.ExternalLink(other, "/003")
    replace_energy(file)["energy"] = h5py.SoftLink("/003/other/energy")


def make_virtual(file: h5py.File, other: Path) -> None:
    whole = h5py.VirtualLayout((ROWS,), "f8")
    whole[:] = h5py.VirtualSource(other, "/003/energy", (ROWS,))
    replace_energy(file).create_virtual_dataset("energy", whole)


def make_unlimited_virtual(file: h5py.File, other: Path) -> None:
    whole = h5py.VirtualLayout((ROWS,), "f8", maxshape=(None,))
    source = h5py.VirtualSource(other, "/003/energy", (ROWS,), maxshape=(None,))
    whole[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    replace_energy(file).create_virtual_dataset("energy", whole)


def store_outside(file: h5py.File, other: Path) -> None:
    replace_energy(file).create_dataset("energy", (ROWS,), "f8", external=[(other, 0, 8 * ROWS)])


OTHER_FILES = [
    (link_energy, "group 003: 'energy' is a link to the file 'OTHER', " + NOT_READ),
    (link_group, ": '003' is a link to the file 'OTHER', " + NOT_READ),
    (link_through, "group 003: 'energy' cannot be opened; it is damaged, or a link to an object that does not"),
    (make_virtual, "group 003: 'energy' is a virtual dataset, " + NOT_READ),
    (make_unlimited_virtual, "group 003: 'energy' is a virtual dataset, " + NOT_READ),
    (store_outside, "group 003: 'energy' is stored in the file 'OTHER', " + NOT_READ),
]


@pytest.mark.parametrize(("change", "message"), OTHER_FILES)
def test_a_file_does_not_lead_to_another_one(write: Write, tmp_path: Path, change: Change, message: str) -> None:
    # Opening the other file would wait for a writer that never comes.
    path, other = write({3: make_group(3, ROWS), 4: make_group(4, ROWS)}), tmp_path / "other.h5"
    os.mkfifo(other)
    with h5py.File(path, "a") as file:
        change(file, other)
    (found,) = check_files([path], labels=built_in("energy")).error_lines
    assert message.replace("OTHER", str(other)) in found
    with pytest.raises(DataError, match=re.escape(message.replace("OTHER", str(other)))):
        read_fidelity(path, labels=built_in("energy"))


@pytest.mark.parametrize(("change", "_"), OTHER_FILES)
def test_other_files_are_read_if_that_is_allowed(write: Write, tmp_path: Path, change: Change, _: str) -> None:
    path, other = write({3: make_group(3, ROWS)}), tmp_path / "other.h5"
    energy = np.arange(ROWS) - 100.0
    if change is store_outside:
        other.write_bytes(energy.tobytes())
    else:
        write({3: make_group(3, ROWS) | {"energy": energy}}, other.name)
    with h5py.File(path, "a") as file:
        change(file, other)
    found = read_fidelity(path, labels=built_in("energy"), file_format=FileFormat(allow_external=True))
    assert found[3]["energy"].tolist() == energy.tolist()


def test_links_within_a_file_are_followed(write: Write) -> None:
    path = write({3: make_group(3, ROWS)})
    with h5py.File(path, "a") as file:
        file["003/total"] = np.arange(float(ROWS))
        replace_energy(file)["energy"] = h5py.SoftLink("/003/total")
        file["003/parent"] = file["/"]
    assert read_fidelity(path, labels=built_in("energy"))[3]["energy"].tolist() == list(range(ROWS))


def test_groups_that_contain_themselves_are_errors(write: Write) -> None:
    path = write({3: make_group(3, ROWS)})
    with h5py.File(path, "a") as file:
        file["004"] = file["/"]
        file["003/energy_of_parent"] = file["003"]
        file["005"] = h5py.SoftLink("/005")
    found = check_files([path], labels=built_in("energy")).error_lines
    assert found[0].startswith(f"{path}: '005' cannot be opened")
    assert f"{path}, group 004 has no 'numbers'; it has 003, 004, 005" in found


UNUSABLE = {
    "variable length": ({"dtype": h5py.vlen_dtype(np.float64)}, "'energy' has type object; expected integers"),
    "object references": ({"dtype": h5py.ref_dtype}, "'energy' has type object; expected integers"),
    "region references": ({"dtype": h5py.regionref_dtype}, "'energy' has type object; expected integers"),
    "text": ({"dtype": h5py.string_dtype()}, "'energy' contains text; expected numbers"),
    "records": ({"dtype": [("a", "f8")]}, "'energy' has type [('a', '<f8')]; expected integers"),
    "arrays": ({"dtype": np.dtype(("f8", (2,)))}, "'energy' has type ('<f8', (2,)); expected integers"),
    "large chunks": (
        {"dtype": "f8", "chunks": (2**27 + 1,), "maxshape": (None,)},
        "'energy' has chunks of 1,073,741,832 bytes; expected at most 1,073,741,824",
    ),
    "twice compressed": ({"dtype": "f8", "chunks": (5,)}, "'energy' is compressed more than once"),
    "unknown filter": (
        {"dtype": "f8", "chunks": (5,)},
        "'energy' is compressed with the HDF5 filter number 32999, which is not installed; see HDF5_PLUGIN_PATH",
    ),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_arrays_that_cannot_be_read_are_errors(write: Write, what: str) -> None:
    options, message = UNUSABLE[what]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if what == "twice compressed":
        properties.set_deflate(9)
        properties.set_deflate(9)
    if what == "unknown filter":
        properties.set_filter(32999, h5py.h5z.FLAG_OPTIONAL)
    path = write({3: make_group(3, ROWS)})
    with h5py.File(path, "a") as file:
        replace_energy(file).create_dataset("energy", (ROWS,), dcpl=properties, **options)
    (found,) = check_files([path], labels=built_in("energy")).error_lines
    assert found.startswith(f"{path}, group 003: {message}")


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_arrays_much_larger_than_the_file_are_errors(tmp_path: Path, compression: str | None) -> None:
    path, rows = tmp_path / "a.h5", 10**12
    with h5py.File(path, "w") as file:
        for name, shape in (("numbers", (rows, 7)), ("coord", (rows, 7, 3))):
            file.create_dataset(f"007/{name}", shape, "f4", chunks=(1000, *shape[1:]), compression=compression)
    (found,) = check_files([path], labels=()).error_lines
    size = path.stat().st_size
    assert size < 10_000
    assert found == (
        f"{path} has {size:,} bytes, but its coordinates have 84,000,000,000,000: most of them have never been "
        "written, or the file is damaged"
    )
    with pytest.raises(DataError, match="most of them have never been written"):
        read_fidelity(path, labels=())


def test_many_large_arrays_in_a_small_file_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for atoms in range(1, 40):
            for name, shape in (("numbers", (10**6, atoms)), ("coord", (10**6, atoms, 3))):
                file.create_dataset(f"{atoms}/{name}", shape, "f4", chunks=(1000, *shape[1:]))
    (found,) = check_files([path], labels=()).error_lines
    assert "its coordinates have 9,360,000,000" in found


def test_the_rows_read_at_once_are_bounded_whatever_the_chunks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        array = file.create_dataset("charge", (10**8,), "i1", chunks=(10**8,))
        group = SizeGroup(path=tmp_path, name="010", rows=10**8, atoms=10, arrays={"charge": array})
        blocks = list(group.blocks())
    assert max(block.stop - block.start for block in blocks) * 10 == layout.MAX_CHUNK_BLOCKS * layout.BLOCK_ATOMS
    assert [blocks[0].start, blocks[-1].stop] == [0, 10**8]


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, what: str) -> None:
    path = Path("/dev/zero")
    if what == "pipe":
        path = tmp_path / "a.h5"
        os.mkfifo(path)
    with pytest.raises(DataError, match=rf"^cannot read {path}: it is not a regular file$"), open_file(path):
        pass


def test_random_damage_never_ends_in_another_exception(tmp_path: Path) -> None:
    read = hdf5_reader(tmp_path)
    with warnings.catch_warnings():
        # Numbers close to the largest ones overflow.
        warnings.simplefilter("ignore", RuntimeWarning)
        refused = sum(read(random.Random(seed)) for seed in range(100))
    assert 30 < refused < 100
