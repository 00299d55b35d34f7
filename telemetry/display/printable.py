"""Make text from a run folder safe to print: a folder may come from anywhere and must not control the terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text with each non-printable character replaced with a space."""
    return "".join(char if char.isprintable() else " " for char in text)
