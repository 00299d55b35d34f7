"""Access to nested dictionaries by dotted keys, such as ``trainer.epochs``."""

from collections.abc import Mapping
from typing import Any

__all__ = ["MISSING", "Tree", "get", "has", "pop", "put"]

Tree = dict[str, Any]

MISSING = object()
"""Returned for a key that does not exist, because None is a value."""


def get(tree: object, key: str, default: Any = MISSING) -> Any:
    """Return the value of a key, or the default if any part of the key does not exist."""
    for name in key.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return default
        tree = tree[name]
    return tree


def has(tree: object, key: str) -> bool:
    """Return whether a key exists, whatever its value."""
    return get(tree, key) is not MISSING


def pop(tree: object, key: str) -> Any:
    """Remove a key and any section that becomes empty; return the value of the key or MISSING."""
    first, _, rest = key.partition(".")
    if not isinstance(tree, dict) or first not in tree:
        return MISSING
    if not rest:
        return tree.pop(first)
    value = pop(tree[first], rest)
    if value is not MISSING and tree[first] == {}:
        del tree[first]
    return value


def put(tree: Tree, key: str, value: Any) -> None:
    """Set a key, replacing anything in its way that is not a section."""
    *parents, last = key.split(".")
    for name in parents:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = value
