"""The definition of a model, as YAML. Without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimnet2mult.config.legacy.definition import translate_definition
from aimnet2mult.config.merge import read_yaml
from aimnet2mult.errors import ConfigError

__all__ = ["DEFAULT", "read_definition"]

DEFAULT = Path(__file__).parents[1] / "models" / "aimnet2.yaml"

# As deep as definitions may name each other; deeper means that they do so in a circle.
DEPTH = 10


def read_definition(path: Path) -> dict[str, Any]:
    """Read a model's definition, with the YAML files that it names put in their places.

    As with aimnet, a text that ends in .yaml or .yml names a file, in the working folder or beside the
    definition. Classes of the original trainer are aimnet's. Raises ConfigError.
    """
    definition: dict[str, Any] = translate_definition(_expanded(read_yaml(path), path, DEPTH))
    if "class" not in definition:
        raise ConfigError(f"{path} has no key 'class'; expected for example `class: aimnet.models.AIMNet2` and kwargs")
    return definition


def _expanded(node: Any, source: Path, depth: int) -> Any:
    if isinstance(node, Mapping):
        return {key: _expanded(value, source, depth) for key, value in node.items()}
    if isinstance(node, list):
        return [_expanded(value, source, depth) for value in node]
    if isinstance(node, str) and node.endswith((".yaml", ".yml")):
        if not depth:
            raise ConfigError(f"{source}: the definitions name each other in a circle")
        path = Path(node) if Path(node).is_file() else source.parent / node
        return _expanded(read_yaml(path), path, depth - 1)
    return node
