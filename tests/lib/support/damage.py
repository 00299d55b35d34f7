"""Seeded damage to HDF5 files and checkpoints: in their bytes, in their structure, and in the values they contain."""

import contextlib
import copy
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return the content with a few bytes changed, a part overwritten, or the end cut off."""
    changed = bytearray(content)
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(changed[: rng.randrange(len(changed))])
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed))
        if kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at] = rng.choice(INTERESTING)
        else:
            length, start = rng.choice([2, 4, 8, 64]), rng.randrange(len(changed))
            changed[at : at + length] = (
                rng.choice([b"\xff", b"\0"]) * length if kind == 3 else changed[start : start + length]
            )
    return bytes(changed)


def damage_pickle(path: Path, target: Path, rng: random.Random) -> None:
    """Write an archive whose pickle is damaged, but whose checksums are right."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, damage_bytes(content, rng) if name.endswith("/data.pkl") else content)


def damage_values(content: Any, rng: random.Random) -> Any:
    """Return a copy of nested values in which one or two are replaced or removed."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 2])):
        places = list(_places(content))
        container, key = rng.choice(places)
        if rng.random() < 0.2:
            del container[key]
        else:
            container[key] = _replacement(container[key], rng)
    return content


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _replacement(value: Any, rng: random.Random) -> Any:
    tensors: list[Any] = []
    if isinstance(value, torch.Tensor):
        tensors = [
            value.double() + torch.nan,
            value.to(torch.int8),
            value.flatten()[:-1],
            torch.zeros(3, 5, 7),
            torch.zeros(1).expand(10**9),
            value.to(torch.complex64),
            torch.zeros(0),
            value.reshape(1, *value.shape),
        ]
    plain: list[Any] = [
        None,
        -1,
        0,
        2**70,
        1e308,
        float("nan"),
        float("inf"),
        "x" * 1000,
        "é\x1b[31m",
        [],
        {},
        [1, "2"],
        True,
    ]
    return rng.choice([*tensors * 2, *plain, {"a": {"b": 1}}, (1, 2), torch.zeros(2), {1: 2, None: 3}])


def damage_hdf5(path: Path, rng: random.Random) -> None:
    """Change the structure of an HDF5 file with groups of structures once or twice."""
    with h5py.File(path, "a") as file:
        for _ in range(rng.choice([1, 1, 2])):
            # Not every change fits what an earlier one has left.
            with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError, OSError, RuntimeError):
                rng.choice(STRUCTURES)(file, rng)


def _group(file: h5py.File, rng: random.Random) -> h5py.Group:
    groups = [member for member in map(file.get, file) if isinstance(member, h5py.Group)]
    return rng.choice(groups) if groups else file.create_group(f"{rng.randrange(1, 9):03d}")


def _clear(group: h5py.Group, rng: random.Random) -> str:
    name = rng.choice(["numbers", "coord", "energy", "forces", "charge", "mult", "other"])
    if name in group or group.get(name, getlink=True) is not None:
        del group[name]
    return name


def _link(file: h5py.File, rng: random.Random) -> None:
    group = _group(file, rng)
    links = [h5py.SoftLink("/003/energy"), h5py.SoftLink("."), h5py.SoftLink("/"), h5py.SoftLink("/absent"), file["/"]]
    external = [
        h5py.ExternalLink(name, "/003/energy") for name in ("/dev/zero", "/dev/stdin", "absent.h5", file.filename)
    ]
    group[_clear(group, rng)] = rng.choice([*links, *external, group])


def _array(file: h5py.File, rng: random.Random) -> None:
    group = _group(file, rng)
    shape = rng.choice([(), (5,), (0,), (5, 3), (5, 3, 3), (2**40,), (2**33, 3), (2**33, 3, 3), (5, 3, 3, 1), (0, 3)])
    types = ["f2", "f4", "f8", "i1", "i8", "u8", ">f8", "c16", "S3", "?", "V5", [("a", "f8")], np.longdouble]
    special = [h5py.vlen_dtype(float), h5py.ref_dtype, h5py.regionref_dtype, h5py.string_dtype()]
    special += [h5py.enum_dtype({"a": 1}), np.dtype(("f8", (3,)))]
    options: dict[str, Any] = {}
    if shape and all(shape) and rng.random() < 0.6:
        options["chunks"] = tuple(min(length, 1000) for length in shape)
        options["compression"] = rng.choice([None, "gzip", "lzf"])
        options["shuffle"] = rng.random() < 0.3
        options["fillvalue"] = rng.choice([None, 1])
    group.create_dataset(_clear(group, rng), shape, rng.choice([*types, *special]), **options)


def _values(file: h5py.File, rng: random.Random) -> None:
    group = _group(file, rng)
    arrays = [member for member in map(group.get, group) if isinstance(member, h5py.Dataset) and member.size]
    if arrays and (array := rng.choice(arrays)).size < 1000 and array.dtype.kind in "iuf":
        values = array[()]
        flat = np.atleast_1d(values).reshape(-1)
        extreme = [0, 1, -1, np.nan, np.inf, -np.inf, 1e300, 2**40, 0.5, 1e-300]
        with np.errstate(all="ignore"):
            flat[rng.randrange(len(flat))] = np.array(rng.choice(extreme)).astype(array.dtype)
        array[...] = flat.reshape(array.shape)


def _virtual(file: h5py.File, rng: random.Random) -> None:
    group = _group(file, rng)
    layout = h5py.VirtualLayout((5,), "f8", maxshape=(rng.choice([5, None]),))
    layout[:5] = h5py.VirtualSource(rng.choice([".", "/dev/zero", "absent.h5"]), "/003/energy", (5,))
    group.create_virtual_dataset(_clear(group, rng), layout)


def _outside(file: h5py.File, rng: random.Random) -> None:
    group = _group(file, rng)
    name = rng.choice(["/dev/zero", "absent", "/etc/hostname"])
    group.create_dataset(_clear(group, rng), (5,), "f8", external=[(name, 0, h5py.h5f.UNLIMITED)])


def _rename(file: h5py.File, rng: random.Random) -> None:
    names = [
        "003",
        "3",
        "0003",
        "000",
        "-3",
        "x",
        "٣",
        "99999",
        "10000",
        "1" * 300,
        "a/b",
        "é\x1b[31m",
        "12345678901234567890",
    ]
    source, target = rng.choice(list(file) or ["x"]), rng.choice(names)
    if source in file and file.get(target, getlink=True) is None:
        file.move(source, target)


def _special(file: h5py.File, rng: random.Random) -> None:
    group = _group(file, rng)
    group[_clear(group, rng)] = rng.choice([np.dtype("f8"), h5py.Empty("f8"), h5py.Empty("S3"), "text", b"bytes"])


def _remove(file: h5py.File, rng: random.Random) -> None:
    _clear(_group(file, rng), rng)


STRUCTURES: list[Callable[[h5py.File, random.Random], None]] = [
    _link,
    _array,
    _values,
    _virtual,
    _outside,
    _rename,
    _special,
    _remove,
]
