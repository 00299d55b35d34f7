"""Layers of configuration: YAML files and dotted overrides as plain nested dictionaries.

What a key means is not known here, only which keys there are: those of the defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from aimnet2mult.config.legacy.settings import LegacyConfigTranslator
from aimnet2mult.errors import ConfigError
from telemetry.errors import closest_match
from telemetry.run_folder.atomic_write import atomic_write

__all__ = ["DEFAULTS", "INDEXED", "PATHS", "ConfigError", "flatten", "merge_layers", "read_yaml", "write_yaml"]

DEFAULTS = Path(__file__).with_name("defaults.yaml")

# Below these the keys belong to somebody else: a class, the data loader, telemetry.
FREE = (
    "data.loaders.train",
    "data.loaders.val",
    "loss.kwargs",
    "optimizer.kwargs",
    "optimizer.param_groups",
    "scheduler",
    "telemetry",
)
# Keyed by fidelity index.
INDEXED = (
    "data.fidelity_datasets",
    "data.val_fidelity_datasets",
    "data.fidelity_weights",
    "data.fidelity_names",
    "data.sae.energy.files",
)
# What goes with a `class` and means nothing to another one.
OF_A_CLASS = ("kwargs", "step", "metric_name")
# Files that are read: mappings of paths by fidelity index, and single ones.
PATHS = ("data.fidelity_datasets", "data.val_fidelity_datasets", "data.sae.energy.files", "load")


def merge_layers(files: Sequence[Path], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay the files and then the overrides over the defaults, and resolve interpolations.

    Raises ConfigError for a file that cannot be read and for a key that the defaults do not have.
    """
    defaults = merged = read_yaml(DEFAULTS)
    layers = [(str(path), read_yaml(path), path.parent) for path in files]
    layers += [(text, _read_override(text), Path()) for text in overrides]
    original = LegacyConfigTranslator.among((source, layer) for source, layer, _ in layers)
    if original:
        merged = _merge(merged, original.defaults)
    for source, given, folder in layers:
        layer = original.translated(given) if original else given
        _refuse_unknown(source, layer, defaults)
        merged = _merge(merged, _anchored(layer, folder), keep=original is not None)
    return _resolved(original.settled(merged) if original else merged)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, interpolations left as they are. Raises ConfigError."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} has to hold keys and values, not a {type(content).__name__}")
    return dict(content)


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write YAML that `read_yaml` reads back unchanged, atomically and readable by its owner only; raises OSError."""
    # Parameters may include what is not for everybody.
    atomic_write(path, OmegaConf.to_yaml(OmegaConf.create(dict(content))).encode())


def flatten(tree: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every leaf; an empty mapping is a leaf."""
    if not isinstance(tree, Mapping) or not tree:
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _read_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        hint = "; a configuration file is given with --config" if text.endswith((".yaml", ".yml")) else ""
        raise ConfigError(f"{text!r} is no override: write key=value, such as trainer.epochs=10{hint}")
    try:
        # OmegaConf reads the value as it would in a file: 1e-3 is a number, [a, b] a list.
        tree: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{key}: {value!r} is not a YAML value: {_one_line(error)}") from error
    tree = tree["value"]
    for depth in reversed(range(len(names))):
        is_index = ".".join(names[:depth]) in INDEXED and names[depth].isdecimal()
        tree = {int(names[depth]) if is_index else names[depth]: tree}
    return dict(tree)


def _refuse_unknown(source: str, layer: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ConfigError for a key that the defaults do not have, as far down as the keys are ours."""
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in known:
            leaf = next(flatten(value, name))[0]
            raise ConfigError(f"no key {leaf!r} (in {source}){_nearest(leaf, known)}")
        if name in FREE or name in INDEXED or not isinstance(known[key], Mapping):
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} cannot be {value!r} (in {source}): it has keys of its own below it")
        _refuse_unknown(source, value, known[key], f"{name}.")


def _nearest(name: str, siblings: Iterable[str]) -> str:
    """Say which key may be meant: the nearest as a whole, else one whose last word is near."""
    leaves = [leaf for leaf, _ in flatten(read_yaml(DEFAULTS))]
    known = [*FREE, *(leaf for leaf in leaves if not leaf.startswith(tuple(f"{root}." for root in FREE)))]
    by_last_word = {key.rpartition(".")[2]: key for key in reversed(known)}
    by_name = closest_match(name, known, cutoff=0.8)
    by_word = closest_match(name.rpartition(".")[2], by_last_word)
    match = by_name or (by_word and by_last_word[by_word])
    return f". Did you mean {match!r}?" if match else f"; keys there: {', '.join(siblings)}"


def _anchored(layer: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the paths that this layer names absolute, starting from folder; an interpolation is left."""
    for section in PATHS:
        *parents, last = section.split(".")
        node: Any = layer
        for word in parents:
            node = node.get(word) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node:
            node[last] = _from(folder, node[last])
    return layer


def _from(folder: Path, value: object) -> object:
    if isinstance(value, dict):
        return {key: _from(folder, path) for key, path in value.items()}
    if isinstance(value, str) and not value.startswith("${"):
        return str((folder / Path(value).expanduser()).absolute())
    return value


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any], *, keep: bool = False) -> dict[str, Any]:
    """Lay upper over lower: mappings join, all else is replaced; what was for another class is dropped, or kept."""
    merged = dict(lower)
    if not keep and "class" in upper and "class" in lower and upper["class"] != lower["class"]:
        merged |= {key: {} if key == "kwargs" else None for key in OF_A_CLASS if key in lower}
    for key, value in upper.items():
        below = merged.get(key)
        join = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _merge(below, value, keep=keep) if join else value  # type: ignore[arg-type]
    return merged


def _resolved(merged: dict[str, Any]) -> dict[str, Any]:
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.create(merged), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    return dict(plain)
