"""Reading of files written by ``torch.save``, which may come from others: checked before anything is loaded.

Such a file is a ZIP archive of uncompressed entries: the pickle ``data.pkl``, and one entry for each tensor. Imports
torch only to load tensors.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO

from aimnet2mult.models.pickle_check import MAX_BYTES, check_pickle
from telemetry.errors import error_text
from telemetry.run_folder.regular_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MAX_SHARING", "ZIP_ERRORS", "is_torch_script", "load_file", "open_archive", "read_pickle", "read_plain"]

HEADER_BYTES, END_BYTES = 30, 22
"""Minimum sizes of the header of an entry and of the end of an archive."""
MAX_SHARING = 10
"""Maximum ratio of the arrays to the file: arrays may share values, as those of tied layers do."""
LOCATOR_BYTES, LARGE_END_BYTES = 20, 56
"""Sizes of what precedes the end of a large archive: the locator of its own end, and that end."""
ENCRYPTED = 0x2041
"""Flags of encrypted entries."""
ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError, IndexError, struct.error)
"""Errors that `zipfile` raises for damaged archives."""


def load_file(path: Path) -> Any:
    """Load the tensors and plain values in a file to the CPU; executes no code of the file.

    Raises:
        OSError: The file cannot be opened, or is not a regular file.
        ValueError: The file is damaged, or was not written by ``torch.save``; the message states why, without the path.
    """
    import torch

    with open_archive(path) as (file, archive):
        read_pickle(archive)
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # The message of torch recommends loading the file in a way that executes its code.
            raise ValueError("it contains other objects than tensors and plain values") from error
        except Exception as error:  # any, for a pickle whose values are not those that torch expects
            raise ValueError(f"it is damaged ({error_text(error):.300})") from error
        size = os.fstat(file.fileno()).st_size
    values = list(_walk(content))
    if any(isinstance(value, OrderedDict) and vars(value).keys() - {"_metadata"} for value in values):
        raise ValueError("it contains dictionaries with attributes")
    arrays = [value for value in values if isinstance(value, torch.Tensor)]
    if any(array.layout is not torch.strided or array.device.type != "cpu" for array in arrays):
        raise ValueError("it contains arrays that are not stored as such")
    if sum(array.numel() * array.element_size() for array in arrays) > MAX_SHARING * size:
        raise ValueError("its arrays are larger than the file")
    return content


def _walk(value: Any) -> Iterator[Any]:
    """Yield a value and all values in it."""
    yield value
    if isinstance(value, dict | list | tuple):
        # A dictionary from a file can have an attribute ``values``.
        for part in dict.values(value) if isinstance(value, dict) else value:
            yield from _walk(part)


@contextlib.contextmanager
def open_archive(path: Path, *, allow_script: bool = False) -> Iterator[tuple[BinaryIO, zipfile.ZipFile]]:
    """Open a file written by ``torch.save``, and check its entries without reading them.

    Args:
        path: The file.
        allow_script: Whether it may be a TorchScript archive, whose code may be compressed.

    Raises:
        OSError: The file cannot be opened, or is not a regular file.
        ValueError: It is another file; the message states why, without the path.
    """
    with open(path, "rb", opener=open_regular) as file:
        if not (start := file.read(2)).startswith(b"PK"):
            early = "; write it again with torch 1.6 or later" if start[:1] == b"\x80" else ""
            raise ValueError(f"expected a file written by torch.save{early}")
        try:
            archive = zipfile.ZipFile(file)
        except ZIP_ERRORS as error:
            raise ValueError(f"it is damaged or incomplete ({error})") from error
        with archive:
            entries = archive.infolist()
            if (script := is_torch_script(archive)) and not allow_script:
                raise ValueError("it is a TorchScript archive, which contains code")
            size = os.fstat(file.fileno()).st_size
            _check_directory(file, archive, size)
            _check_entries([entry for entry in entries if not (script and _is_code(entry))], size)
            yield file, archive


def read_pickle(archive: zipfile.ZipFile) -> bytes:
    """Return the content of ``data.pkl``, checked.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    found = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
    if len(found) != 1:
        raise ValueError("expected a file written by torch.save, which has one entry data.pkl")
    try:
        with archive.open(found[0]) as entry:
            content = entry.read(MAX_BYTES + 1)
        check_pickle(content)
    except ZIP_ERRORS as error:
        raise ValueError(f"its entry {found[0].filename!r}: {error}") from error
    return content


def read_plain(path: Path) -> Any:
    """Return the plain values in a file, with None for everything else, without importing torch or executing code.

    Raises:
        OSError: The file cannot be opened, or is not a regular file.
        ValueError: The file is damaged; the message states why, without the path.
    """
    with open_archive(path) as (_, archive):
        content = read_pickle(archive)
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # any: the pickle may contain anything
        raise ValueError(f"it is damaged ({error_text(error):.300})") from error


class _Mapping(dict[Any, Any]):
    """A dictionary that gets no attributes."""

    def __setstate__(self, _: object) -> None: ...


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values, and None for everything else; runs no code of the file."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        known = (module_name, global_name) == ("collections", "OrderedDict")
        return _Mapping if known else lambda *_, **__: None

    def persistent_load(self, _: Any) -> None:
        """Skip the data of a tensor."""


def is_torch_script(archive: zipfile.ZipFile) -> bool:
    """Return whether an archive was written by ``torch.jit.save``, and therefore contains code."""
    return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _is_code(entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry of a TorchScript archive is code, which is never read."""
    return entry.filename.partition("/")[2].startswith("code/")


def _check_directory(file: BinaryIO, archive: zipfile.ZipFile, size: int) -> None:
    """Check that torch, which does not use zipfile, finds the same entries: zipfile tolerates a wrong position."""
    file.seek(max(0, size - END_BYTES - LOCATOR_BYTES - LARGE_END_BYTES))
    large, locator, end = (tail := file.read())[:-42], tail[-42:-END_BYTES], tail[-END_BYTES:]
    (start,) = struct.unpack_from("<L", end, 16)
    expected = True
    if locator.startswith(b"PK\x06\x07"):
        (start,) = struct.unpack_from("<Q", large, 48)
        expected = struct.unpack_from("<Q", locator, 8) == (size - len(tail),)
    if not expected or not end.startswith(b"PK\x05\x06") or start != archive.start_dir:
        raise ValueError("it is damaged: its directory is not where its end states")


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Check that the entries are stored one after the other, so that they are not larger than the file."""
    end, names = 0, set()
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.orig_filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"its entry {name!r} is compressed, which torch.save does not do")
        if entry.flag_bits & ENCRYPTED:
            raise ValueError(f"its entry {name!r} is encrypted")
        # torch ignores case.
        if name.lower() in names or name != entry.filename:
            raise ValueError(f"its entry {name!r} occurs twice")
        names.add(name.lower())
        if entry.header_offset < end:
            raise ValueError(f"its entry {name!r} overlaps another one")
        end = entry.header_offset + HEADER_BYTES + len(name) + entry.file_size
    if end > size - END_BYTES:
        raise ValueError("its entries are larger than the file")
