"""Files of plain objects: numbers, text, arrays, containers and records. Reading one executes nothing."""

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["FILE_ERRORS", "read_objects", "write_objects"]

FILE_ERRORS = (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error)
"""Errors that damaged files cause."""

TREE = "tree"
"""Array with the JSON of the object, in which a number stands for each of the other arrays."""


def write_objects(file: BinaryIO, value: object, records: Iterable[type]) -> None:
    """Write an object as an npz file, whose members have checksums.

    Args:
        file: The file.
        value: The object.
        records: Classes of records that it may contain, all of whose attributes are plain objects as well.

    Raises:
        TypeError: It contains something else.
    """
    arrays: list[npt.NDArray[Any]] = []
    tree = json.dumps(_encode(value, arrays, set(records))).encode()
    named = {str(number): array for number, array in enumerate(arrays)}
    np.savez(file, allow_pickle=False, **{TREE: np.frombuffer(tree, np.uint8)}, **named)


def read_objects(path: Path, records: Iterable[type]) -> Any:
    """Read an object from a file of `write_objects`.

    Raises:
        *FILE_ERRORS: The file is damaged, or contains other records.
    """
    with np.load(path, allow_pickle=False) as file:
        tree = json.loads(file[TREE].tobytes())
        arrays = [file[str(number)] for number in range(len(file.files) - 1)]
    return _decode(tree, arrays, {record.__name__: record for record in records})


def _encode(value: Any, arrays: list[npt.NDArray[Any]], records: set[type]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, Path):
        return {"path": str(value)}
    if type(value) in records:
        fields = value._asdict() if isinstance(value, tuple) else vars(value)
        return {"record": type(value).__name__, "fields": _encode(fields, arrays, records)}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, arrays, records), _encode(item, arrays, records)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_encode(item, arrays, records) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, arrays, records) for item in value]}
    raise TypeError(f"{type(value).__name__} is not a plain object")


def _decode(value: Any, arrays: list[npt.NDArray[Any]], records: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays, records) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "path" in value:
        return Path(value["path"])
    if "tuple" in value:
        return tuple(_decode(value["tuple"], arrays, records))
    if "dict" in value:
        return {_decode(key, arrays, records): _decode(item, arrays, records) for key, item in value["dict"]}
    return _record(records[value["record"]], _decode(value["fields"], arrays, records))


def _record(record: type, fields: dict[str, Any]) -> Any:
    """Return a record with these attributes, without calling its constructor, which may take others."""
    if issubclass(record, tuple):
        return record(**fields)
    found = object.__new__(record)
    vars(found).update(fields)
    return found
