"""Interface of the translators of single sections."""

from typing import ClassVar

from aimnet2mult.config.legacy.nested import Tree
from aimnet2mult.config.legacy.rule import Rule

__all__ = ["SectionTranslator"]


class SectionTranslator:
    """Translate one section of the settings.

    Both methods change their argument in place and raise ConfigError for settings that cannot be translated.

    Args:
        notes: Notes for the user by key, shared by all sections; translators add to them.
    """

    rules: ClassVar[tuple[Rule, ...]] = ()
    """What becomes of the keys that the class translates."""

    def __init__(self, notes: dict[str, str]) -> None:
        self.notes = notes

    def translate(self, layer: Tree) -> None:
        """Translate one layer; called for all layers in order."""

    def finish(self, merged: Tree) -> None:
        """Translate settings that depend on several keys; called once, with all layers merged over the defaults."""
