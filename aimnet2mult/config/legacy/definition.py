"""Translation of model definitions."""

from collections.abc import Mapping
from typing import Any

from aimnet2mult.config.legacy.classes import MODEL, translate_module

__all__ = ["translate_definition"]


ROWS, MIN_ROWS = 128, 64
"""Number of rows in the tables of the original, one for each atomic number, and in those of aimnet."""


def translate_definition(node: Any, offset: int | None = None) -> Any:
    """Return a model definition with the original trainer's copies of aimnet's classes replaced by aimnet's own.

    Args:
        node: The definition.
        offset: Shift of the atomic numbers per fidelity, if there are several: in the original, a smaller one than the
            number of rows was possible, and elements beyond it were mixed up with those of the next fidelity.
    """
    if isinstance(node, list):
        return [translate_definition(child, offset) for child in node]
    if not isinstance(node, Mapping):
        return node
    node = {key: translate_definition(value, offset) for key, value in node.items()}
    if isinstance(path := node.get("class"), str):
        node["class"] = translate_module(path)
        if path == MODEL:
            # The number of rows in the tables, whose default is larger than in aimnet.
            node["kwargs"] = {"max_z": max(MIN_ROWS, min(ROWS, offset or ROWS)), **(node.get("kwargs") or {})}
    return node
