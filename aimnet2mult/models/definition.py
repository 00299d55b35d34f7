"""Reading of model definitions in YAML. Does not import torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimnet2mult.config.legacy.definition import translate_definition
from aimnet2mult.config.merge import read_yaml
from aimnet2mult.config.user_path import is_file
from aimnet2mult.config.yaml_text import MAX_DEPTH
from aimnet2mult.data.compositions import MAX_ELEMENT
from aimnet2mult.errors import ConfigError, ModelError

__all__ = ["AIMNET2", "DEFAULT", "ROWS", "max_element", "read_definition", "table_rows"]

DEFAULT = Path(__file__).with_name("aimnet2.yaml")

AIMNET2 = ("aimnet.models.AIMNet2", "aimnet.models.aimnet2.AIMNet2")
"""Paths of the class of aimnet whose tables `build_model` can enlarge."""
ROWS = "max_z"
"""Argument of this class, added here: number of rows in its tables, one for each atomic number from 0."""
DEFAULT_ROWS = 64
"""Number of rows in aimnet."""
MAX_ROWS = 1000
"""Maximum number of rows."""
MAX_INCLUDED = 20
"""Maximum number of included files."""


def read_definition(path: Path, offset: int | None = None) -> dict[str, Any]:
    """Read a model definition and include the YAML files that it names.

    As in aimnet, a string that ends in .yaml or .yml is the path of a file to include, relative to the working
    directory or to the definition. The file must be in the folder of the definition, because the definition is stored
    with the run and sent to sinks. Classes of the original trainer are replaced with aimnet's.

    Args:
        path: The file.
        offset: Shift of the atomic numbers per fidelity, if there are several; see `translate_definition`.

    Raises:
        ConfigError: A file cannot be read or is in another folder, files include each other in a cycle, or there is no
            class.
        ModelError: ``max_z`` is invalid.
    """
    definition: dict[str, Any] = translate_definition(
        _include(read_yaml(path), path, path.resolve().parent, []), offset
    )
    if "class" not in definition:
        raise ConfigError(f"{path} has no key 'class'; expected for example `class: aimnet.models.AIMNet2` and kwargs")
    try:
        table_rows(definition)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return definition


def table_rows(definition: Mapping[str, Any]) -> int | None:
    """Return the number of rows in the tables of a model, ``max_z``; None if its definition does not state it.

    Raises:
        ModelError: It is invalid.
    """
    kwargs = definition.get("kwargs")
    if definition.get("class") not in AIMNET2 or not isinstance(kwargs, Mapping) or ROWS not in kwargs:
        return None
    rows = kwargs[ROWS]
    if isinstance(rows, bool) or not isinstance(rows, int) or not DEFAULT_ROWS <= rows <= MAX_ROWS:
        raise ModelError(f"{ROWS} is {rows!r}; expected a number of rows from {DEFAULT_ROWS} to {MAX_ROWS}")
    return rows


def max_element(definition: Mapping[str, Any]) -> int:
    """Return the largest atomic number for which a model has parameters; 118 if its class is unknown."""
    if definition.get("class") not in AIMNET2:
        return MAX_ELEMENT
    kwargs = definition.get("kwargs")
    rows = kwargs.get(ROWS, DEFAULT_ROWS) if isinstance(kwargs, Mapping) else DEFAULT_ROWS
    return min(rows - 1, MAX_ELEMENT) if isinstance(rows, int) else MAX_ELEMENT


def _include(node: Any, source: Path, folder: Path, included: list[Path], depth: int = 1) -> Any:
    if len(included) > MAX_INCLUDED or depth > MAX_DEPTH:
        raise ConfigError(f"{source}: the definitions include each other in a cycle, or are nested too deeply")
    if isinstance(node, Mapping):
        return {key: _include(value, source, folder, included, depth + 1) for key, value in node.items()}
    if isinstance(node, list):
        return [_include(value, source, folder, included, depth + 1) for value in node]
    if isinstance(node, str) and node.endswith((".yaml", ".yml")) and node.isprintable():
        path = Path(node) if is_file(node) else source.parent / node
        if not path.resolve().is_relative_to(folder):
            raise ConfigError(
                f"{source} includes {path}, which is not in {folder}: a definition from somebody else could copy any "
                "file of yours into the run; move or copy the file there"
            )
        included.append(path)
        return _include(read_yaml(path), path, folder, included, depth + 1)
    return node
