"""Early check that settings and models name only classes that the user trusts. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimnet2mult.config.import_path import Role, check_path, check_trust
from aimnet2mult.config.merge import find_source
from aimnet2mult.errors import Problems

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config

__all__ = ["check_definition", "check_settings", "named_in"]

IMPORTED = ("class", "activation_fn", "weight_init_fn")
"""Keys of a model definition whose text is the path of a class or function."""


def check_settings(config: Config, files: Sequence[Path], overrides: Sequence[str], problems: Problems) -> None:
    """Collect a problem for each class and function in the settings that is not trusted.

    Args:
        config: The settings, whose paths are well-formed.
        files: Files that they come from, for error messages.
        overrides: ``key=value`` that they come from.
        problems: Collects the problems.
    """
    named: list[tuple[str, str, Role]] = [("loss.class", config.loss.cls, "loss")]
    named += [(key, path, "loss") for key, path in config.loss.functions.items()]
    named += [("optimizer.class", config.optimizer.cls, "optimizer")]
    schedulers = config.scheduler.classes if config.scheduler else {}
    named += [(key, path, "scheduler") for key, path in schedulers.items() if isinstance(path, str)]
    for key, path, role in named:
        source = find_source(key, files, overrides)
        with problems.collect():
            check_trust(path, f"{source}: {key}" if source else key, role)


def check_definition(definition: Mapping[str, Any], source: Path, problems: Problems) -> None:
    """Collect a problem for each class and function in a model definition that is malformed or not trusted.

    Args:
        definition: The definition.
        source: Its file, for error messages.
        problems: Collects the problems.
    """
    for name, path in named_in(definition):
        key = f"{source}: {name}"
        with problems.collect():
            check_trust(check_path(path, key), key, "model")


def named_in(node: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted key and the value of each class and function in a model definition."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            if name == "class" or (name in IMPORTED and isinstance(value, str)):
                yield inner, value
            yield from named_in(value, inner)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from named_in(value, f"{key}[{index}]")
