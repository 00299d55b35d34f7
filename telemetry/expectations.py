"""Describe in words which values a setting accepts."""

from __future__ import annotations

import sys
from typing import Any

from msgspec import inspect

_NAMES: dict[type, str] = {
    inspect.BoolType: "true or false",
    inspect.StructType: "a mapping",
    inspect.DictType: "a mapping",
    inspect.NoneType: "null",
}


def expected_value(struct: type, keys: list[str]) -> str:
    """Return which values a field of a msgspec struct accepts, such as ``an integer of at least 1``.

    Args:
        struct: the struct.
        keys: the name of the field, preceded by those of the structs that contain it.
    """
    kind: inspect.Type = inspect.type_info(struct)
    for key in keys:
        if not isinstance(kind, inspect.StructType):
            break
        kind = next(field.type for field in kind.fields if field.encode_name == key)
    return _describe(kind)


def describe_type(kind: Any) -> str:
    """Return which values an annotation accepts, such as ``an integer of at least 1 or null``."""
    return _describe(inspect.type_info(kind))


def _describe(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_describe(one) for one in kind.types)
    if isinstance(kind, inspect.LiteralType):
        return f"one of {', '.join(map(str, kind.values))}"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return ("an integer" if isinstance(kind, inspect.IntType) else "a number") + _bounds(kind)
    if isinstance(kind, inspect.StrType):
        not_empty = " that is not empty" if kind.min_length else ""
        return (
            "a name of letters, digits and _ . -, not beginning with . or -" if kind.pattern else f"a text{not_empty}"
        )
    return _NAMES.get(type(kind), "a list")


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    # The largest float as the limit excludes infinity.
    finite = ", finite" if kind.le == sys.float_info.max else ""
    limits = ((" above", kind.gt), (" of at least", kind.ge), (" at most", kind.le), (" below", kind.lt))
    given = [f"{text} {limit:g}" for text, limit in limits if limit not in (None, sys.float_info.max)]
    return ",".join(given) + finite
