"""YAML as settings use it: plain values only, within bounds, so that no file can crash the command or keep it busy."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aimnet2mult.errors import ConfigError
from telemetry.errors import error_text

__all__ = ["MAX_DEPTH", "MAX_KEY_LENGTH", "dump", "parse", "parse_as_text", "read_text"]

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000
"""Maximum number of keys and values, each counted as often as aliases repeat it."""
MAX_DEPTH = 50
"""Maximum nesting of lists and mappings."""
MAX_KEY_LENGTH = 250

_PREFIX = "tag:yaml.org,2002:"
_TEXT = f"{_PREFIX}str"
_KEY_TAGS = {_TEXT, f"{_PREFIX}int", f"{_PREFIX}merge"}
_TAGS = _KEY_TAGS | {f"{_PREFIX}{name}" for name in ("float", "bool", "null", "seq", "map")}
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+\Z")
# Faster, and safe for what `parse` has accepted: deep nesting overflows the stack of libyaml.
_TEXT_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")


def read_text(path: Path) -> str:
    """Return the text of a file of settings.

    Raises:
        ConfigError: The file cannot be read, is neither a regular file nor a pipe of the shell, is larger than 1 MB, or
            is not UTF-8.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISFIFO(mode) and not path.resolve().exists():
                # A pipe without a name, as in `--config <(command)`: it has a writer.
                os.set_blocking(file.fileno(), True)
            elif not stat.S_ISREG(mode):
                raise ConfigError("it is not a regular file")
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError("it is larger than 1 MB, and settings are not")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(error.strerror) from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("it is not UTF-8 text") from error


def parse(text: str) -> Any:
    """Parse YAML into dictionaries, lists, text, numbers, truth values and None.

    Unlike in YAML 1.1, 1e-3 is a number, and a date is text.

    Raises:
        ConfigError: The text is not YAML, or contains anything else, too many values, or a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - creates plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(where + " ".join(str(error.problem or error.context).split())) from error
    except RecursionError as error:
        raise ConfigError(f"the values are nested more than {MAX_DEPTH} deep") from error
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError) as error:
        raise ConfigError(error_text(error)) from error


def parse_as_text(text: str) -> Any:
    """Parse YAML that `parse` accepts without interpreting scalars: 010 is the text 010 and not the number 8.

    Raises:
        ConfigError: The parser of libyaml does not accept it.
    """
    try:
        return yaml.load(text, Loader=_TEXT_LOADER)  # noqa: S506 - creates text only
    except yaml.YAMLError as error:
        raise ConfigError(error_text(error)) from error


def dump(content: Mapping[Any, Any]) -> str:
    """Return YAML that `parse` reads back unchanged."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # PyYAML has no types
    """The loader of `parse`."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Check the size of the document, then construct its values."""
        _measure(node, {})
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value of one of the permitted types."""
        if node.tag not in _TAGS:
            raise _problem(node, f"the tag {node.tag!r:.60} is not allowed in settings")
        value = super().construct_object(node, deep=deep)
        if isinstance(value, str) and (found := _CONTROL.search(value)):
            raise _problem(node, f"the text contains the control character U+{ord(found[0]):04X}")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Construct a mapping, each of whose keys must be text or an integer and occur once."""
        keys = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag not in _KEY_TAGS or not isinstance(key, yaml.ScalarNode):
                found = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _problem(key, f"a key is {found:.60}: expected text or an integer")
            if len(key.value) > MAX_KEY_LENGTH or not key.value.isprintable():
                raise _problem(key, f"a key is {key.value!r:.60}: expected up to {MAX_KEY_LENGTH} printable characters")
            if key.value in keys:
                raise _problem(key, f"found duplicate key {key.value!r}")
            keys.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Construct an integer that fits into 64 bits, as in JSON."""
        number: int = super().construct_yaml_int(node) if len(node.value) <= MAX_KEY_LENGTH else 1 << 64
        if not -(1 << 63) <= number < 1 << 64:
            raise _problem(node, f"{node.value:.30} is not an integer of up to 64 bits")
        return number


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # PyYAML has no types
    """The dumper of `dump`, which quotes what `_Loader` would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the name is PyYAML's
        """Write a value wherever it occurs."""
        return True


_Loader.add_constructor(f"{_PREFIX}int", _Loader.construct_yaml_int)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_PREFIX}float", _FLOAT, list("-+0123456789."))
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _TAGS]
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int]]) -> tuple[int, int]:
    """Return how many keys and values a node contains, with those repeated by aliases, and how deep they are nested."""
    if node not in known:
        known[node] = (MAX_VALUES + 1, 1)  # What a node that contains itself finds.
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        pairs = children if isinstance(node, yaml.MappingNode) else [(child,) for child in children]
        inner = [_measure(child, known) for pair in pairs for child in pair]
        known[node] = (1 + sum(size for size, _ in inner), 1 + max((depth for _, depth in inner), default=0))
    size, depth = known[node]
    if size > MAX_VALUES:
        raise _problem(node, f"there are more than {MAX_VALUES:,} keys and values, or a value contains itself")
    if depth > MAX_DEPTH:
        raise _problem(node, f"the values are nested more than {MAX_DEPTH} deep")
    return size, depth


def _problem(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)
