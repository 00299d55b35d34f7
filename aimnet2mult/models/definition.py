"""Reading of model definitions in YAML. Does not import torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimnet2mult.config.legacy.definition import translate_definition
from aimnet2mult.config.merge import read_yaml
from aimnet2mult.errors import ConfigError

__all__ = ["DEFAULT", "read_definition"]

DEFAULT = Path(__file__).with_name("aimnet2.yaml")

MAX_DEPTH = 10
"""Maximum nesting of included files; deeper nesting is reported as a cycle."""


def read_definition(path: Path) -> dict[str, Any]:
    """Read a model definition and include the YAML files that it names.

    As in aimnet, a string that ends in .yaml or .yml is the path of a file to include, relative to the working
    directory or to the definition. Classes of the original trainer are replaced with aimnet's.

    Raises:
        ConfigError: A file cannot be read, files include each other in a cycle, or there is no class.
    """
    definition: dict[str, Any] = translate_definition(_include(read_yaml(path), path, MAX_DEPTH))
    if "class" not in definition:
        raise ConfigError(f"{path} has no key 'class'; expected for example `class: aimnet.models.AIMNet2` and kwargs")
    return definition


def _include(node: Any, source: Path, depth: int) -> Any:
    if isinstance(node, Mapping):
        return {key: _include(value, source, depth) for key, value in node.items()}
    if isinstance(node, list):
        return [_include(value, source, depth) for value in node]
    if isinstance(node, str) and node.endswith((".yaml", ".yml")):
        if not depth:
            raise ConfigError(f"{source}: the definitions include each other in a cycle")
        path = Path(node) if Path(node).is_file() else source.parent / node
        return _include(read_yaml(path), path, depth - 1)
    return node
