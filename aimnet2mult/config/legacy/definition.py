"""Translation of model definitions."""

from collections.abc import Mapping
from typing import Any

__all__ = ["translate_definition"]


def translate_definition(node: Any) -> Any:
    """Return a model definition with the original trainer's copies of aimnet's classes replaced by aimnet's own."""
    if isinstance(node, list):
        return [translate_definition(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    node = {key: translate_definition(value) for key, value in node.items()}
    path = node.get("class")
    if path == "aimnet2mult.models.aimnet2.AIMNet2":
        node["class"] = "aimnet.models.AIMNet2"
        # The number of rows in the tables, whose default is larger than in aimnet.
        node["kwargs"] = {"max_z": 128, **(node.get("kwargs") or {})}
    elif isinstance(path, str) and path.startswith("aimnet2mult.modules."):
        node["class"] = f"aimnet.{path.removeprefix('aimnet2mult.')}"
    return node
