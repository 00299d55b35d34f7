"""Translation of model definitions."""

from collections.abc import Mapping
from typing import Any

from aimnet2mult.config.legacy.classes import MODEL, translate_module

__all__ = ["translate_definition"]


def translate_definition(node: Any) -> Any:
    """Return a model definition with the original trainer's copies of aimnet's classes replaced by aimnet's own."""
    if isinstance(node, list):
        return [translate_definition(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    node = {key: translate_definition(value) for key, value in node.items()}
    if isinstance(path := node.get("class"), str):
        node["class"] = translate_module(path)
        if path == MODEL:
            # The number of rows in the tables, whose default is larger than in aimnet.
            node["kwargs"] = {"max_z": 128, **(node.get("kwargs") or {})}
    return node
