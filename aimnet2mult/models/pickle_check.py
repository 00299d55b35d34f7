"""Checks of a pickle before it is read: its instructions can ask for far more time and memory than its size."""

import pickletools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["check_pickle"]

MAX_BYTES = 16 * 2**20
"""Maximum size; the pickle of a checkpoint has about 150 bytes for each tensor."""
MAX_VALUES = 10_000_000
"""Maximum number of values and characters, counted again wherever they are referred to."""
MAX_DEPTH = 100
"""Maximum depth of nested values."""

PUT, GET = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
FILL = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")
OTHER = """
    PROTO STOP MARK GLOBAL BINPERSID REDUCE NEWOBJ NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    BINUNICODE SHORT_BINSTRING EMPTY_DICT EMPTY_LIST EMPTY_TUPLE EMPTY_SET TUPLE TUPLE1 TUPLE2 TUPLE3
"""
KNOWN = {*PUT, *GET, *FILL, *OTHER.split()}
"""The instructions that `torch.save` writes and that ``torch.load(weights_only=True)`` executes."""
NAMES = re.compile(
    r"collections (OrderedDict|Counter)|(__builtin__|builtins) set|torch (\w+Storage|Size|device)"
    r"|torch (b?float|complex|u?int|bool)\w*|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch\.jit\._pickle \w+|__torch__\S* \w+"
)
"""Classes and functions of tensors and plain values. ``torch.load(weights_only=True)`` calls others as well, such as
``bytearray`` with any size, and ``_codecs.encode`` with an encoding that needs hours."""
STATE_DICT = "collections OrderedDict"
"""The class of a state dict, which has an attribute ``_metadata``."""


class _OtherObjectError(Exception):
    """The pickle names another class or function than those of tensors and plain values."""


@dataclass
class _Value:
    """A value that the pickle describes."""

    size: int = 1
    depth: int = 0
    fixed: bool = False
    """Whether another value refers to it; `size` must not change afterwards."""
    made_by: str = ""
    """The instruction; REDUCE followed by what it calls."""


def check_pickle(content: bytes) -> None:
    """Check that reading a pickle, and comparing or printing its values, takes time in proportion to its size.

    The time to print or hash a value that contains another one twice, which contains a third one twice, and so on,
    doubles with each of them. A value that is filled after a reference to it could contain itself. Calls, which copy
    their arguments, could do so over and over.

    Raises:
        ValueError: It is too large, damaged, or contains an instruction or a name that `torch.save` does not write.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"has {len(content):,} bytes; expected at most {MAX_BYTES:,}")
    copied, nested = 0, False
    try:
        with warnings.catch_warnings():
            # About escape sequences in a damaged text.
            warnings.simplefilter("ignore", DeprecationWarning)
            for value in _values(content):
                copied += value.size if value.made_by.startswith("REDUCE") else 0
                nested |= value.size > MAX_VALUES or value.depth > MAX_DEPTH or copied > MAX_VALUES
    except _OtherObjectError as error:
        raise ValueError(f"contains other objects than tensors and plain values, such as {error}") from error
    except (IndexError, KeyError, ValueError, UnicodeError) as error:
        raise ValueError(f"is damaged, or not written by torch.save ({error})") from error
    if nested:
        raise ValueError("contains values that are nested too deeply or too often")


def _values(content: bytes) -> Iterator[_Value]:
    """Yield each value after it was created or filled, as if the instructions were executed."""
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[Any, _Value] = {}
    for instruction, argument, _ in pickletools.genops(content):
        name = instruction.name
        if name not in KNOWN:
            raise ValueError(f"instruction {name}")
        if name == "GLOBAL" and not NAMES.fullmatch(str(argument)):
            raise _OtherObjectError(f"{str(argument).replace(' ', '.', 1):.60}")
        if name in PUT:
            # The memo is an array with as many elements as the largest index.
            if int(argument or 0) > len(content) or stack[-1] is None:
                raise ValueError("reference out of range")
            memo[argument] = stack[-1]
            continue
        if name in GET:
            memo[argument].fixed = True
            stack.append(memo[argument])
            continue
        parts = _pop(stack, instruction.stack_before)
        for kind in instruction.stack_after:
            value = None if kind is pickletools.markobject else _join(name, argument, parts)
            stack.append(value)
            if value is not None:
                yield value


def _pop(stack: list[_Value | None], before: list[pickletools.StackObject]) -> list[_Value]:
    """Remove the operands of an instruction, and return them in order."""
    parts: list[_Value] = []
    if pickletools.markobject in before:
        while (value := stack.pop()) is not None:
            parts.append(value)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        value = stack.pop()
        if value is None:
            raise ValueError("mark in place of a value")
        parts.append(value)
    return parts[::-1]


def _join(name: str, argument: Any, parts: list[_Value]) -> _Value:
    """Return the result of an instruction: a new value, or its first operand with the others in it."""
    target = _Value(made_by=name)
    if name == "GLOBAL":
        target.made_by = argument
    elif name == "REDUCE":
        target.made_by = f"REDUCE {parts[0].made_by}"
    elif isinstance(argument, str):
        target.size += len(argument)
    if name in FILL:
        target, *parts = parts
        if target.fixed:
            raise ValueError("change of a value after a reference to it")
        if name == "BUILD" and target.made_by not in ("NEWOBJ", f"REDUCE {STATE_DICT}"):
            raise ValueError("attributes of a value that has none")
    for part in parts:
        part.fixed = True
        target.size += part.size
        target.depth = max(target.depth, part.depth + 1)
    return target
