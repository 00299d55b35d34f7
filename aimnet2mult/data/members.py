"""Opening of the groups of a data file and their members; other files are opened only if that is allowed.

A data file is an HDF5 file, or a folder of npz files. External links, virtual datasets and external storage make HDF5
open any path that the file names.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import h5py
from h5py import h5d, h5f, h5fd, h5l, h5o, h5p, h5z

from aimnet2mult.data.npz import NPZ_ERRORS, NpzArray, NpzFolder
from aimnet2mult.errors import DataError
from telemetry.errors import error_text

__all__ = ["READ_ERRORS", "DataFile", "Members", "StoredArray", "open_groups", "open_members"]

HDF5_ERRORS = (KeyError, OSError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError)
"""Errors that h5py raises for damaged files."""

READ_ERRORS = (*HDF5_ERRORS, *NPZ_ERRORS)
"""Errors of damaged data files."""

DataFile: TypeAlias = h5py.File | NpzFolder
StoredArray: TypeAlias = h5py.Dataset | NpzArray
Members = Mapping[str, StoredArray | h5py.Group | str]
"""The members of a group by name; for those that cannot be used, a text that states why."""

MAX_ATOMS = 10_000
"""Maximum number of atoms of a structure; the search for close atoms takes quadratic time."""
MAX_CHUNK_BYTES = 2**30
"""Maximum size of a chunk, all of which is decompressed at once."""
UNREADABLE = "cannot be opened; it is damaged, or a link to an object that does not exist in this file"
REMEDY = "which is not read unless data.allow_external=true"


def open_groups(path: Path, file: DataFile, *, allow_external: bool) -> tuple[dict[str, Members], list[str]]:
    """Open all groups of a data file that are named by a number of atoms, with their members.

    Returns:
        The groups by name, and the problems of the others.

    Raises:
        DataError: The file is damaged.
    """
    if isinstance(file, NpzFolder):
        groups, problems = _open_npz(file)
    else:
        groups, problems = _open_hdf5(path, file, allow_external=allow_external)
    if not groups and not problems:
        problems = [f"{path} has no groups" if isinstance(file, h5py.File) else f"{path} has no files such as 007.npz"]
    by_size: dict[int, list[str]] = {}
    for name in groups:
        by_size.setdefault(int(name), []).append(name)
    problems += [
        f"{path}: several groups have the same number of atoms: {', '.join(names)}"
        for names in by_size.values()
        if len(names) > 1
    ]
    large = [name for name in groups if int(name) > MAX_ATOMS]
    problems += [f"{path}: group {name} has more than {MAX_ATOMS:,} atoms" for name in large]
    return {name: group for name, group in groups.items() if name not in large}, problems


def _open_hdf5(path: Path, file: h5py.File, *, allow_external: bool) -> tuple[dict[str, Members], list[str]]:
    groups: dict[str, Members] = {}
    problems = []
    for name, member in open_members(str(path), file, allow_external=allow_external).items():
        if isinstance(member, str):
            problems.append(f"{path}: {name!r} {member}")
        elif isinstance(member, h5py.Group) and _is_size(name):
            groups[name] = open_members(f"{path}, group {name}", member, allow_external=allow_external)
        else:
            problems.append(f"{path}: {name!r} is not a group named by its number of atoms, such as '007'")
    return groups, problems


def _open_npz(folder: NpzFolder) -> tuple[dict[str, Members], list[str]]:
    groups: dict[str, Members] = {}
    problems = []
    for file in folder.files:
        if not _is_size(file.stem):
            problems.append(f"{file} is not named by its number of atoms, such as 007.npz; rename or move it")
            continue
        try:
            groups[file.stem] = folder.members(file)
        except ValueError as error:
            problems.append(f"cannot read {file}: {error}")
    return groups, problems


def _is_size(name: str) -> bool:
    """Return whether a name is a number of atoms; `int` refuses thousands of digits."""
    return name.isdecimal() and len(name) < 20 and int(name) > 0  # noqa: PLR2004 - any small number


def open_members(where: str, group: h5py.Group, *, allow_external: bool) -> Members:
    """Open all members of a group.

    Args:
        where: Name of the group in messages.
        group: The group.
        allow_external: Whether members may be, or be stored, in other files.

    Raises:
        DataError: The group is damaged.
    """
    try:
        names: list[bytes] = list(group.id)
    except HDF5_ERRORS as error:
        raise DataError(f"{where} is damaged; restore the file from a copy ({error_text(error)})") from error
    access = None if allow_external else _within_file()
    return {name.decode(errors="backslashreplace"): _open(group, name, access) for name in names}


def _open(group: h5py.Group, name: bytes, access: Any) -> h5py.Dataset | h5py.Group | str:
    try:
        if access is not None and group.id.links.get_info(name).type == h5l.TYPE_EXTERNAL:
            target = group.id.links.get_val(name)[0].decode(errors="backslashreplace")
            return f"is a link to the file {target!r}, {REMEDY}"
        member = h5o.open(group.id, name, lapl=access)
        if isinstance(member, h5py.h5g.GroupID):
            return h5py.Group(member)
        if not isinstance(member, h5d.DatasetID):
            return "is a data type; expected an array"
        # Even the shape of a virtual dataset may depend on other files.
        if problem := _storage_problem(member.get_create_plist(), allow_external=access is None):
            return problem
        array = h5py.Dataset(member)
        # Read the description of the array, which may be damaged.
        _ = array.shape
        size = math.prod(array.chunks or ()) * array.dtype.itemsize
    except HDF5_ERRORS:
        return UNREADABLE
    return array if size <= MAX_CHUNK_BYTES else f"has chunks of {size:,} bytes; expected at most {MAX_CHUNK_BYTES:,}"


def _storage_problem(properties: Any, *, allow_external: bool) -> str:
    """Return why an array with these creation properties is not read, or ""."""
    if not allow_external:
        if properties.get_layout() == h5d.VIRTUAL:
            return f"is a virtual dataset, {REMEDY}"
        if properties.get_external_count():
            target = properties.get_external(0)[0].decode(errors="backslashreplace")
            return f"is stored in the file {target!r}, {REMEDY}"
    filters = [properties.get_filter(index) for index in range(properties.get_nfilters())]
    codes = [code for code, *_ in filters]
    if len(set(codes)) < len(codes):
        # Compression of compressed data can expand a few bytes to any size.
        return "is compressed more than once"
    for code, *_, name in filters:
        if not h5z.filter_avail(code):
            known = f"{name.decode(errors='backslashreplace')!r} (number {code})" if name else f"number {code}"
            return f"is compressed with the HDF5 filter {known}, which is not installed; see HDF5_PLUGIN_PATH"
    return ""


def _within_file() -> Any:
    """Return properties of links with which HDF5 finds an empty file at the end of each external link.

    They must not be kept: freeing them after the end of the interpreter would crash.
    """
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5fd.fileobj_driver, io.BytesIO())
    links = h5p.create(h5p.LINK_ACCESS)
    # An external link may be in the middle of the path of a soft link.
    links.set_elink_fapl(access)
    return links
