"""Files of plain objects: numbers, text, arrays, containers and records. Reading one executes nothing."""

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["FILE_ERRORS", "read_objects", "write_objects"]

FILE_ERRORS = (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error)
"""Errors that damaged files cause."""

TREE = "tree"
"""Array with the JSON of the object, in which a number stands for each of the other arrays."""
PLACE = "\0"
"""Stands for the path of the data, which cannot contain it."""


def write_objects(file: BinaryIO, value: object, records: Iterable[type], *, place: str) -> None:
    """Write an object as an npz file, whose members have checksums.

    Args:
        file: The file.
        value: The object.
        records: Classes of records that it may contain, all of whose attributes are plain objects as well.
        place: Path at the beginning or end of texts, for which `read_objects` may insert another one.

    Raises:
        TypeError: It contains something else.
    """
    encoder = _Encoder(set(records), place)
    tree = json.dumps(encoder.encode(value)).encode()
    named = {str(number): array for number, array in enumerate(encoder.arrays)}
    np.savez(file, allow_pickle=False, **{TREE: np.frombuffer(tree, np.uint8)}, **named)


def read_objects(file: BinaryIO, records: Iterable[type], *, place: str) -> Any:
    """Read an object from a file of `write_objects`.

    Raises:
        *FILE_ERRORS: The file is damaged, or contains other records.
    """
    with np.load(file, allow_pickle=False) as members:
        tree = json.loads(members[TREE].tobytes())
        arrays = [members[str(number)] for number in range(len(members.files) - 1)]
    return _Decoder(arrays, {record.__name__: record for record in records}, place).decode(tree)


class _Encoder:
    def __init__(self, records: set[type], place: str) -> None:
        self.arrays: list[npt.NDArray[Any]] = []
        self._records = records
        self._place = place

    def encode(self, value: Any) -> Any:
        """Return an object as JSON can represent it; arrays are put aside."""
        if isinstance(value, str):
            return self._encode_text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, np.ndarray):
            self.arrays.append(value)
            return {"array": len(self.arrays) - 1}
        if type(value) in self._records:
            return {"record": type(value).__name__, "fields": self.encode(vars(value))}
        if isinstance(value, dict):
            return {"dict": [[self.encode(key), self.encode(item)] for key, item in value.items()]}
        for kind in (list, tuple, set):
            if type(value) is kind:
                return {kind.__name__: [self.encode(item) for item in value]}
        raise TypeError(f"{type(value).__name__} is not a plain object")

    def _encode_text(self, text: str) -> str:
        if text.startswith(self._place):
            return PLACE + text.removeprefix(self._place)
        return text.removesuffix(self._place) + PLACE if text.endswith(self._place) else text


class _Decoder:
    def __init__(self, arrays: list[npt.NDArray[Any]], records: Mapping[str, type], place: str) -> None:
        self._arrays = arrays
        self._records = records
        self._place = place

    def decode(self, value: Any) -> Any:
        """Return the object of `_Encoder.encode`."""
        if isinstance(value, str):
            return value.replace(PLACE, self._place)
        if not isinstance(value, dict):
            return value
        if "record" in value:
            # Constructors may have other arguments.
            found: Any = object.__new__(self._records[value["record"]])
            vars(found).update(self.decode(value["fields"]))
            return found
        ((kind, items),) = value.items()
        if kind == "array":
            return self._arrays[items]
        if kind == "dict":
            return {self.decode(key): self.decode(item) for key, item in items}
        return {"list": list, "tuple": tuple, "set": set}[kind](map(self.decode, items))
