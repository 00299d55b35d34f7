"""Make text safe to print: it may come from a run folder, a file or a server, and must not control the terminal."""

from __future__ import annotations

MAX_LINE_LENGTH = 2000
"""Maximum number of characters of a printed line."""


def printable(text: str) -> str:
    """Return the text with each non-printable character replaced with a space."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def shorten(text: str, length: int = MAX_LINE_LENGTH) -> str:
    """Return up to ``length`` characters of the text; an ellipsis replaces the rest."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
