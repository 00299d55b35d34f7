"""Reading of the arrays in TorchScript archives, such as the published AIMNet2 models, without executing their code.

The objects of a TorchScript archive are in a pickle: instances of compiled classes, which have no code here, with their
attributes. They become inert containers; every other object is refused.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimnet2mult.models.torch_file import MAX_SHARING, open_archive, read_pickle

__all__ = ["read_torch_script"]

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""Data type by the name of the storage class of torch."""


MAX_NAME = 1000
"""Maximum length of an attribute path."""


class _Module:
    """An instance of any class in an archive: only its attributes."""


def read_torch_script(path: Path) -> dict[str, Tensor]:
    """Return the arrays in a TorchScript archive by attribute path, as in its state dict; executes none of its code.

    Raises:
        OSError: The file cannot be opened, or is not a regular file.
        ValueError: The file is damaged, or contains other objects than modules with arrays and plain values.
    """
    with open_archive(path, allow_script=True) as (file, archive):
        try:
            content = _Unpickler(archive, read_pickle(archive)).load()
            arrays = dict(_find_arrays(content))
        except Exception as error:  # any: the pickle may contain anything
            raise ValueError(f"its TorchScript modules cannot be read ({error})") from error
        size = file.seek(0, io.SEEK_END)
    if sum(array.numel() * array.element_size() for array in arrays.values()) > MAX_SHARING * size:
        raise ValueError("its arrays are larger than the file")
    return arrays


class _Unpickler(pickle.Unpickler):
    """Reads modules, arrays and plain values; runs no code of the file."""

    def __init__(self, archive: zipfile.ZipFile, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._archive = archive
        self._storages: dict[Any, bytearray] = {}
        self._root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return an inert class for a compiled one, and functions of this module in place of those of torch."""
        if module_name.startswith("__torch__"):
            return _Module
        if module_name == "torch" and global_name in DTYPES:
            return DTYPES[global_name]
        if found := FUNCTIONS.get(f"{module_name}.{global_name}"):
            return found
        raise ValueError(f"unexpected {module_name}.{global_name}")

    def persistent_load(self, reference: Any) -> Tensor:
        """Return the values of a storage."""
        _, dtype, key, _, count = reference
        entry = self._archive.getinfo(f"{self._root}data/{key}")
        if entry.file_size != count * dtype.itemsize:
            raise ValueError(f"entry {entry.filename!r} has {entry.file_size} bytes for {count} values of {dtype}")
        if key not in self._storages:
            self._storages[key] = bytearray(self._archive.read(entry))
        values = self._storages[key]
        return torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)


def _rebuild(values: Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> Tensor:
    if not isinstance(values, Tensor) or min((offset, *shape, *strides)) < 0 or len(shape) != len(strides):
        raise ValueError("an array has no valid shape")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= len(values):
        raise ValueError("an array extends beyond its values")
    return values.as_strided(shape, strides, offset)


def _untagged(value: object, *_: object) -> object:
    return value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch.jit._pickle.restore_type_tag": _untagged,
    "torch.jit._pickle.build_intlist": _untagged,
    "torch.jit._pickle.build_doublelist": _untagged,
    "torch.jit._pickle.build_boollist": _untagged,
    "torch.jit._pickle.build_tensorlist": _untagged,
    "collections.OrderedDict": dict,
}
"""What is called in place of the functions that a pickle of TorchScript names."""


def _find_arrays(module: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays among the attributes of a module and of those in it."""
    for name, value in vars(module).items() if isinstance(module, _Module) else ():
        if len(prefix) + len(name) > MAX_NAME:
            raise ValueError("a name is too long")
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _find_arrays(value, f"{prefix}{name}.")
