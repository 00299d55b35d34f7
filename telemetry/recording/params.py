"""Turn the parameters of a run, which may be objects of other libraries, into nested dicts, lists and scalars."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import math
import types
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from telemetry.errors import SettingError, format_error

_MAX_DEPTH = 20
_ABBREVIATED = "..."
_MAX_ARRAY_ELEMENTS = 1000


def plain_params(params: object) -> dict[str, Any]:
    """Return parameters as a dict: a mapping, a namespace, a dataclass or a similar object with named fields.

    Raises:
        SettingError: they have no names, or reading them failed.
    """
    try:
        plain = _plain(params, ())
    except Exception as error:
        # For example an OmegaConf value that is missing, or that refers to one.
        msg = f"params cannot be read: {format_error(error)}"
        raise SettingError(msg) from error
    if not isinstance(plain, dict):
        msg = f"params is of type {type(params).__name__}; expected a mapping of names to values, or a namespace"
        raise SettingError(msg)
    return plain


def _plain(value: Any, parents: tuple[Any, ...]) -> Any:
    """Return dicts, lists and scalars; any other object is left to the redaction, which records its ``str``.

    ``parents`` are the objects that contain the value. If it is one of them, or has too many, it is abbreviated.
    """
    if isinstance(value, str | bytes | type):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value, int) else value.name
    inside = (*parents, value)
    if len(inside) > _MAX_DEPTH or any(parent is value for parent in parents):
        return _ABBREVIATED
    fields = value if isinstance(value, Mapping) else _fields(value)
    if fields is not None:
        return {str(name): _plain(field, inside) for name, field in fields.items()}
    if isinstance(value, Sequence | AbstractSet):
        elements = [_plain(each, inside) for each in value]
        return sorted(elements, key=str) if isinstance(value, AbstractSet) else elements
    return _elements(value)


def _fields(value: Any) -> dict[str, Any] | None:
    """Return the fields of an object by name; None if it has none."""
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        return vars(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    # Named tuples and pydantic models.
    as_dict = getattr(value, "_asdict", None) or getattr(value, "model_dump", None)
    return as_dict() if callable(as_dict) else None


def _elements(value: Any) -> Any:
    """Return the elements of a small array as numbers; any other object unchanged."""
    if not callable(getattr(value, "tolist", None)) or not hasattr(value, "shape"):
        return value
    count = math.prod(value.shape)
    return value.tolist() if count <= _MAX_ARRAY_ELEMENTS else f"{type(value).__name__} of {count} elements"
