"""All rules of the translation, for the table in docs/how-to/moving-over.md."""

from collections.abc import Iterator

from aimnet2mult.config.legacy import classes, outside, translator
from aimnet2mult.config.legacy.rule import Rule

__all__ = ["all_rules"]


def all_rules() -> Iterator[Rule]:
    """Yield what becomes of each setting, class, command and file of the original that is not simply the same here."""
    yield from outside.RULES
    yield from translator.RULES
    yield from classes.RULES
