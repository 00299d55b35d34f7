"""Texts of a run as they may be shown: they may come from anywhere, and steer no terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Give a text in which a space stands for each character that would not show."""
    return "".join(char if char.isprintable() else " " for char in text)
