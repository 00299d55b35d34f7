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
            # The size of the embedding. Elements that aimnet does not support are rejected when the data are read.
            (node.get("kwargs") or {}).pop("max_z", None)
    return node
