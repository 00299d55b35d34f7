"""The built-in labels by their names."""

from aimnet2mult.quantities import LABELS, Label


def built_in(*names: str) -> tuple[Label, ...]:
    """Return the built-in labels with these names, in their order."""
    return tuple(LABELS[name] for name in names)
