"""Merging of the layers of settings: YAML files and dotted overrides, as plain nested dictionaries.

This module knows only which keys exist, namely those in the defaults; ``schema`` defines their types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from aimnet2mult.config import references
from aimnet2mult.config.legacy.detect import is_legacy
from aimnet2mult.config.legacy.nested import has
from aimnet2mult.config.legacy.translator import LegacyConfigTranslator
from aimnet2mult.config.text_values import keep_text
from aimnet2mult.config.tree import keeps_nothing, merge, restrict, unite
from aimnet2mult.config.user_path import expand_user
from aimnet2mult.config.yaml_text import MAX_DEPTH, MAX_KEY_LENGTH, dump, parse, parse_as_text, read_text
from aimnet2mult.errors import ConfigError, Problems
from telemetry.errors import closest_match
from telemetry.run_folder.atomic_write import atomic_write, remove_temporary_files

__all__ = [
    "BY_FIDELITY",
    "DEFAULTS",
    "ConfigError",
    "find_source",
    "flatten",
    "merge_layers",
    "read_defaults",
    "read_yaml",
    "write_yaml",
]

DEFAULTS = Path(__file__).with_name("defaults.yaml")

OPEN_SECTIONS = (
    "labels",
    "data.keys",
    "data.units",
    "data.loaders.train",
    "data.loaders.val",
    "loss.kwargs",
    "optimizer.kwargs",
    "optimizer.param_groups",
    "scheduler",
    "telemetry",
)
"""Sections whose keys are defined elsewhere: by a class, the data loader, the labels or telemetry."""
BY_FIDELITY = (
    "data.fidelity_datasets",
    "data.val_fidelity_datasets",
    "data.test_fidelity_datasets",
    "data.fidelity_weights",
    "data.fidelity_names",
    "data.sae.energy.files",
)
"""Mappings by fidelity index."""
PATH_KEYS = (
    "data.fidelity_datasets",
    "data.val_fidelity_datasets",
    "data.test_fidelity_datasets",
    "data.split_file",
    "data.cache",
    "data.stage",
    "data.sae.energy.files",
    "load",
)
"""Keys whose values are paths, other than that of the runs, or mappings of paths of input files by fidelity index."""
CACHE_WORDS = ("auto", "off")
"""Values of ``data.cache`` that are not paths."""


def merge_layers(
    files: Sequence[Path],
    overrides: Sequence[str],
    problems: Problems | None = None,
    *,
    recorded: Path | None = None,
) -> dict[str, Any]:
    """Merge the files and then the overrides over the defaults, and resolve references.

    Over the settings of a run, only what files and overrides would contribute to a new run is merged. A layer of them
    may change a class, and then drops the kwargs of lower layers again, as it did when the run was started.

    Args:
        files: YAML files; later ones win.
        overrides: ``key=value`` with dotted keys; later ones win.
        recorded: ``train.yaml`` of a run, below all files. Nothing in it is a reference.
        problems: Collects the errors, for a caller that looks for more; layers and keys with errors are then left out.

    Raises:
        ConfigError: A file cannot be read, or a key is unknown.
    """
    found = problems or Problems()
    defaults = merged = read_defaults()
    layers = _read_layers(files, overrides, found, recorded)
    legacy = LegacyConfigTranslator.for_layers((source, layer) for source, layer, _ in layers)
    keeps_kwargs = LegacyConfigTranslator.keeps_kwargs if legacy else keeps_nothing
    if legacy:
        merged = merge(merged, legacy.defaults, keeps_kwargs)
    asked, given = merged, dict[str, Any]()
    for number, (source, content, folder) in enumerate(layers):
        with found.collect():
            layer = legacy.translate_layer(content) if legacy else content
            _request_labels(layer, drop=is_legacy(content))
            layer = _resolve_paths(_select_known(source, layer, defaults, found), folder)
            if recorded and number == 0:
                merged = merge(merged, layer, keeps_kwargs)
            else:
                asked, given = merge(asked, layer, keeps_kwargs), unite(given, layer)
    merged = merge(merged, restrict(asked, given), keeps_kwargs) if recorded else asked
    with found.collect():
        merged = references.resolve(legacy.finish(merged) if legacy else merged, found)
        if problems is not None:
            return merged
    found.raise_any()
    return merged


def _request_labels(layer: dict[str, Any], *, drop: bool) -> None:
    """Let a label that no data set has be an error if the layer names the labels; ``drop``: not in this layer."""
    if has(layer, "data.y"):
        layer["data"].setdefault("on_missing_label", "drop" if drop else "error")


def read_defaults() -> dict[str, Any]:
    """Return a copy of the defaults."""
    return deepcopy(_parsed_defaults())


@cache
def _parsed_defaults() -> dict[str, Any]:
    return read_yaml(DEFAULTS)


def _read_layers(
    files: Sequence[Path], overrides: Sequence[str], problems: Problems, recorded: Path | None = None
) -> list[tuple[str, dict[str, Any], Path]]:
    """Return the name of each layer, its settings, and the folder to which its paths are relative."""
    layers = []
    if recorded:
        with problems.collect():
            layers.append((str(recorded), references.escape(read_yaml(recorded)), recorded.parent))
    for path in files:
        with problems.collect():
            layers.append((str(path), read_yaml(path), path.parent))
    for text in overrides:
        with problems.collect():
            layers.append((text, _read_override(text), Path()))
    return layers


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping, without resolving references.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or does not contain a mapping.
    """
    try:
        text = read_text(path)
        content = {} if (parsed := parse(text)) is None else parsed
        if isinstance(content, dict):
            return keep_text(content, parse_as_text(text))
    except ConfigError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    raise ConfigError(f"{path} contains a {type(content).__name__}; expected keys and values")


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write YAML that ``read_yaml`` reads back unchanged, atomically and readable by its owner only.

    Raises:
        OSError: The file cannot be written.
    """
    remove_temporary_files(path)
    # Settings may contain credentials; the default mode of atomic_write is owner-only.
    atomic_write(path, dump(content).encode())


def find_source(key: str, files: Sequence[Path], overrides: Sequence[str]) -> Path | None:
    """Return the file that contains the value of a setting; None if an override does, or none of the files."""
    for _, layer, _ in reversed(_read_layers((), overrides, Problems())):
        if has(layer, key):
            return None
    return next((path for path in reversed(files) if has(read_yaml(path), key)), None)


def flatten(tree: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf; an empty mapping is a leaf."""
    if not isinstance(tree, Mapping) or not tree:
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))


def _read_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        hint = "; pass a file of settings with --config" if text.endswith((".yaml", ".yml")) else ""
        raise ConfigError(f"{text!r} is not an override: expected KEY=VALUE, for example trainer.epochs=10{hint}")
    if not key.isprintable() or len(key) > MAX_KEY_LENGTH:
        raise ConfigError(f"{key!r:.100} is not a key: expected up to {MAX_KEY_LENGTH} printable characters")
    if len(names) > MAX_DEPTH:
        raise ConfigError(f"{key:.100}: the values are nested more than {MAX_DEPTH} deep")
    try:
        # 1e-3 is a number, [a, b] a list, as in a file.
        tree, as_text = parse(value), parse_as_text(value)
    except ConfigError as error:
        raise ConfigError(f"{key}: {value!r} is not a YAML value: {error}") from error
    for depth in reversed(range(len(names))):
        is_index = ".".join(names[:depth]) in BY_FIDELITY and names[depth].isdecimal()
        tree = {int(names[depth]) if is_index else names[depth]: tree}
        as_text = {names[depth]: as_text}
    return keep_text(dict(tree), as_text)


def _select_known(
    source: str, layer: Mapping[str, Any], known: Mapping[str, Any], problems: Problems, prefix: str = ""
) -> dict[str, Any]:
    """Return the keys of a layer that are in the defaults or below open sections, and collect the others."""
    selected = {}
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in known:
            leaf = next(flatten(value, name))[0]
            problems.add(f"unknown key {leaf!r} in {source}{_suggest(leaf, known)}")
        elif name in OPEN_SECTIONS or name in BY_FIDELITY or not isinstance(known[key], Mapping):
            selected[key] = value
        elif isinstance(value, Mapping):
            selected[key] = _select_known(source, value, known[key], problems, f"{name}.")
        else:
            problems.add(f"{name} is {value!r} in {source}: expected a section with the keys {', '.join(known[key])}")
    return selected


def _suggest(name: str, siblings: Iterable[str]) -> str:
    """Suggest the key closest to a name, else one with a similar last word, else the valid keys of that section."""
    leaves = [leaf for leaf, _ in flatten(_parsed_defaults())]
    below_open = tuple(f"{section}." for section in OPEN_SECTIONS)
    known = [*OPEN_SECTIONS, *(leaf for leaf in leaves if not leaf.startswith(below_open))]
    by_last_word = {key.rpartition(".")[2]: key for key in reversed(known)}
    by_name = closest_match(name, known, cutoff=0.8)
    by_word = closest_match(name.rpartition(".")[2], by_last_word)
    match = by_name or (by_word and by_last_word[by_word])
    return f". Did you mean {match!r}?" if match else f"; valid keys: {', '.join(siblings)}"


def _resolve_paths(layer: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve the paths in a layer against the folder of its file; leave references unchanged."""
    for key in PATH_KEYS:
        *parents, last = key.split(".")
        node: Any = layer
        for word in parents:
            node = node.get(word) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node and (key != "data.cache" or node[last] not in CACHE_WORDS):
            node[last] = _make_absolute(folder, node[last])
    return layer


def _make_absolute(folder: Path, value: object) -> object:
    if isinstance(value, dict):
        return {key: _make_absolute(folder, path) for key, path in value.items()}
    if isinstance(value, str) and not value.startswith("${"):
        return str((folder / expand_user(value)).absolute())
    return value
