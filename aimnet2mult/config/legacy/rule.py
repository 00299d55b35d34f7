"""What becomes of a part of the original trainer, for the notices, the errors and the migration guide."""

from typing import Literal, NamedTuple

__all__ = ["Outcome", "Rule"]

Outcome = Literal["translated", "notice", "error", "absent"]
"""Whether a part is translated silently, listed in the notice, rejected, or does not exist here."""


class Rule(NamedTuple):
    """A row of the table in docs/how-to/moving-over.md."""

    name: str
    """Dotted key or class of the original, where ``*`` stands for any name, or a description in Markdown."""
    outcome: Outcome
    text: str
    """What to use instead, or what is done with it, in Markdown."""
