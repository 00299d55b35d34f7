"""The error of everything that builds a model."""

__all__ = ["ModelError"]


class ModelError(ValueError):
    """The model cannot be built; the message names its definition, what is wrong there and the cure."""
