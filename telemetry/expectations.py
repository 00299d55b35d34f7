"""Describe in words which values a setting accepts."""

from __future__ import annotations

from msgspec import inspect

_NAMES: dict[type, str] = {
    inspect.StrType: "a text",
    inspect.BoolType: "true or false",
    inspect.StructType: "a mapping",
    inspect.DictType: "a mapping",
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


def _describe(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.LiteralType):
        return f"one of {', '.join(map(str, kind.values))}"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return ("an integer" if isinstance(kind, inspect.IntType) else "a number") + _bounds(kind)
    return _NAMES.get(type(kind), "a list")


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    limits = ((" above", kind.gt), (" of at least", kind.ge), (" at most", kind.le), (" below", kind.lt))
    return ",".join(f"{text} {limit:g}" for text, limit in limits if limit is not None)
