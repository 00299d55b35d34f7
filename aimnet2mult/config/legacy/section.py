"""Interface of the translators of single sections."""

from aimnet2mult.config.legacy.nested import Tree

__all__ = ["SectionTranslator"]


class SectionTranslator:
    """Translate one section of the settings.

    Both methods change their argument in place and raise ConfigError for settings that cannot be translated.

    Args:
        notes: Notes for the user by key, shared by all sections; translators add to them.
    """

    def __init__(self, notes: dict[str, str]) -> None:
        self.notes = notes

    def translate(self, layer: Tree) -> None:
        """Translate one layer; called for all layers in order."""

    def finish(self, merged: Tree) -> None:
        """Translate settings that depend on several keys; called once, with all layers merged over the defaults."""
