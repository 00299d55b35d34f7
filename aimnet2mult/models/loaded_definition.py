"""The definition of the model in a file or run folder whose weights are loaded. Does not import torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimnet2mult.config.merge import read_yaml
from aimnet2mult.config.resume_rules import CONFIG_FILE, MODEL_FILE, reject_links
from aimnet2mult.config.user_path import is_file
from aimnet2mult.config.yaml_text import parse
from aimnet2mult.errors import ConfigError
from aimnet2mult.models.checkpoint_folder import FOLDER
from aimnet2mult.models.definition import DEFAULT, read_definition
from aimnet2mult.models.envelope import take_out
from aimnet2mult.models.torch_file import read_plain

__all__ = ["find_definition", "read_loaded_definition"]


def find_definition(model: Path | None, load: str | None, offset: int | None) -> tuple[dict[str, Any], Path]:
    """Return the definition of the model of a run, and the file that it comes from.

    This is the given definition, or that of the model whose weights are loaded, or the default.

    Args:
        model: The file that is given.
        load: The source of the weights that are loaded.
        offset: Shift of the atomic numbers per fidelity, if there are several.

    Raises:
        ConfigError: It cannot be read, or is malformed.
    """
    if model is None and load is not None:
        definition = read_loaded_definition(Path(load))
        if definition is not None:
            return definition, Path(load)
    path = model or DEFAULT
    return read_definition(path, offset), path


def read_loaded_definition(path: Path) -> dict[str, Any] | None:
    """Return the definition in the source of initial weights; None if it contains none, or cannot be read.

    The definition in a file in aimnet's format v2 has no long-range modules, because aimnet's calculator adds their
    energies; they are restored.

    Raises:
        ConfigError: The definition is malformed.
    """
    folder = path if path.is_dir() else path.absolute().parent.parent
    in_run = path.is_dir() or path.absolute().parent.name == FOLDER
    if in_run and is_file(folder / CONFIG_FILE):
        reject_links(folder, FOLDER)
        return read_yaml(folder / MODEL_FILE)
    try:
        content = take_out(read_plain(path.resolve()))
    except (OSError, ValueError):
        # Loading the weights reports it.
        return None
    if not isinstance(content, dict):
        return None
    if isinstance(description := content.get("description"), dict):
        definition = description.get("definition")
    elif isinstance(text := content.get("model_yaml"), str):
        definition = _with_long_range(parse(text), content)
    else:
        return None
    if not isinstance(definition, dict):
        raise ConfigError(f"load: {path} contains a malformed definition of the model")
    return definition


def _with_long_range(definition: Any, content: Mapping[str, Any]) -> Any:
    """Return the definition in an aimnet file with its long-range Coulomb and D3 modules."""
    try:
        outputs = dict(definition["kwargs"]["outputs"])
        short_range = outputs.pop("srcoulomb", None)
        if content.get("needs_coulomb"):
            keys = {"key_in": "charges", "key_out": "energy"}
            kwargs = {**keys, **short_range["kwargs"]} if short_range else keys
            outputs["lrcoulomb"] = {"class": "aimnet.modules.LRCoulomb", "kwargs": kwargs}
        if content.get("needs_dispersion"):
            outputs["dftd3"] = {"class": "aimnet.modules.DFTD3", "kwargs": dict(content["d3_params"])}
        return {**definition, "kwargs": {**definition["kwargs"], "outputs": outputs}}
    except (KeyError, TypeError, ValueError):
        return None
