"""Make text safe for the programs that display it.

Text may come from a run folder, a data file or a server. It must not control the terminal, and a spreadsheet must not
evaluate it.
"""

from __future__ import annotations

MAX_LINE_LENGTH = 2000
"""Maximum number of characters of a printed line."""


def printable(text: str) -> str:
    """Return the text with each non-printable character replaced with a space."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def csv_text(text: str) -> str:
    """Return the text of a CSV cell, after an apostrophe if a spreadsheet would evaluate it as a formula.

    See https://owasp.org/www-community/attacks/CSV_Injection. Numbers must not be passed through this function.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def shorten(text: str, length: int = MAX_LINE_LENGTH) -> str:
    """Return up to ``length`` characters of the text; an ellipsis replaces the rest."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
