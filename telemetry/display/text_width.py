"""Measure and cut text in columns of a terminal, which some characters take two of, and some none."""

from __future__ import annotations

import re
import unicodedata
from itertools import accumulate

from telemetry.printable import printable

_SGR = re.compile(r"\x1b\[[0-9;]*m")


def width_of(text: str) -> int:
    """Return the number of columns of a text, not counting SGR sequences."""
    plain = _SGR.sub("", text)
    return len(plain) if plain.isascii() else sum(map(_columns, plain))


def cut(text: str, columns: int) -> str:
    """Return the text without non-printable characters, in up to ``columns`` columns; an ellipsis replaces the rest."""
    text = printable(text)
    if width_of(text) <= columns:
        return text
    return f"{_head(text, columns - 1)}…" if columns > 0 else ""


def cut_middle(text: str, columns: int) -> str:
    """Return the text like ``cut``, but with its end instead of its middle: names often differ only there."""
    if width_of(text := printable(text)) <= columns:
        return text
    right = _head(text[::-1], columns // 2)[::-1]
    return cut(text, columns - width_of(right)) + right


def wrap(text: str, columns: int) -> list[str]:
    """Return the text as lines of up to ``columns`` columns; longer words are broken, and further lines indented."""
    text = printable(text)
    lines, line = [], " " * (len(text) - len(text.lstrip(" ")) - 1)
    for word in text.split():
        joined = f"{line} {word}" if line or text.startswith(" ") else word
        if width_of(joined) <= columns:
            line = joined
            continue
        if line.strip():
            lines.append(line)
        line = f"  {word}" if lines else word
        while width_of(line) > columns:
            head = _head(line, columns)
            lines.append(head)
            line = f"  {line[len(head) :]}"
    return [*lines, line]


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Return the text extended with spaces to ``columns`` columns, at its end or, with ``right``, at its start."""
    spaces = " " * (columns - width_of(text))
    return spaces + text if right else text + spaces


def _head(text: str, columns: int) -> str:
    """Return the beginning of a text that takes up to ``columns`` columns."""
    return text[: sum(end <= columns for end in accumulate(map(_columns, text)))]


def _columns(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
