"""The error of a configuration."""

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the key, its value and what would be right."""
