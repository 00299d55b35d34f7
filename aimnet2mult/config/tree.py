"""Operations on settings as nested mappings: merging them, uniting their keys, and selecting some of them."""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["KeepsKwargs", "keeps_nothing", "merge", "restrict", "unite"]

CLASS_KEYS = ("kwargs", "step", "metric_name")
"""Keys that belong to a `class`, and are dropped when a higher layer changes it."""
KeepsKwargs = Callable[[str, str], bool]
"""Function of the lower and the higher class that returns whether the lower kwargs are kept."""


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any], keeps_kwargs: KeepsKwargs) -> dict[str, Any]:
    """Merge mappings recursively; ``upper`` wins. A changed class drops the lower CLASS_KEYS."""
    merged = dict(lower)
    if "class" in upper and "class" in lower and upper["class"] != lower["class"]:
        kept = ("kwargs",) if keeps_kwargs(lower["class"], upper["class"]) else ()
        merged |= {key: {} if key == "kwargs" else None for key in CLASS_KEYS if key in lower and key not in kept}
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value, keeps_kwargs)
        else:
            merged[key] = value
    return merged


def keeps_nothing(_lower: str, _upper: str) -> bool:
    """Return False: a changed class drops the lower kwargs."""
    return False


def unite(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that either of two trees has."""
    united = dict(lower)
    for key, value in upper.items():
        below = united.get(key)
        united[key] = unite(below if isinstance(below, Mapping) else {}, value) if isinstance(value, Mapping) else below
    return united


def restrict(tree: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree without the keys that another tree does not have."""
    return {
        key: restrict(tree[key], below) if isinstance(tree[key], Mapping) and isinstance(below, Mapping) else tree[key]
        for key, below in keys.items()
        if key in tree
    }
