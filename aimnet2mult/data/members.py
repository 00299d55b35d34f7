"""Opening of the members of an HDF5 group; other files are opened only if that is allowed.

External links, virtual datasets and external storage make HDF5 open any path that the file names.
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import h5py
from h5py import h5d, h5f, h5fd, h5l, h5o, h5p, h5z

from aimnet2mult.errors import DataError
from telemetry.errors import error_text

__all__ = ["HDF5_ERRORS", "Members", "open_members"]

HDF5_ERRORS = (KeyError, OSError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError)
"""Errors that h5py raises for damaged files."""

Members = Mapping[str, h5py.Dataset | h5py.Group | str]
"""The members of a group by name; for those that cannot be used, a text that states why."""

MAX_CHUNK_BYTES = 2**30
"""Maximum size of a chunk, all of which is decompressed at once."""
UNREADABLE = "cannot be opened; it is damaged, or a link to an object that does not exist in this file"
REMEDY = "which is not read unless data.allow_external=true"


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
