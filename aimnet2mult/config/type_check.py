"""Check of the types of settings, with a message in plain words for each value that does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import inspect

from telemetry.expectations import describe_type

__all__ = ["Section", "find_misfits"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping with a fixed set of keys."""


def find_misfits(value: object, kind: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key of each value that does not fit its type, and what is wrong with it.

    Args:
        value: A value of the setting ``key``, as parsed from YAML.
        kind: The type that it must have; sections and mappings are checked item by item.
        key: The dotted key; "" for all settings.
    """
    if NoneType in get_args(kind) and value is not None:
        (kind,) = set(get_args(kind)) - {NoneType}
    if isinstance(kind, type) and issubclass(kind, Section) and isinstance(value, Mapping):
        yield from _misfits_in_section(value, kind, key)
    elif get_origin(kind) is dict and isinstance(value, Mapping):
        yield from _misfits_in_mapping(value, kind, key)
    elif not _fits(value, kind):
        yield key, f"{key} is {value!r}: expected {describe_type(kind)}"


def _misfits_in_section(value: Mapping[Any, Any], kind: type[Section], key: str) -> Iterator[tuple[str, str]]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    valid = f"; valid keys: {', '.join(fields)}"
    for name in value:
        if name not in fields:
            yield key, f"unknown key {_join(key, name)!r}{valid}"
    for name, field in fields.items():
        if name in value:
            yield from find_misfits(value[name], field.type, _join(key, name))
        elif field.required:
            yield key, f"{_join(key, name)} is missing{valid}"


def _misfits_in_mapping(value: Mapping[Any, Any], kind: Any, key: str) -> Iterator[tuple[str, str]]:
    key_kind, item_kind = get_args(kind)
    for name, item in value.items():
        if not _fits(name, key_kind):
            by_index = isinstance(inspect.type_info(key_kind), inspect.IntType)
            expected = "fidelity indices 0, 1, … as keys" if by_index else "text as keys"
            yield key, f"{_join(key, name)} is set: expected {expected}"
        else:
            yield from find_misfits(item, item_kind, _join(key, name))


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True
