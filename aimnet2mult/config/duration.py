"""Durations such as ``90min``, and the setting ``trainer.time_limit``."""

import re

from aimnet2mult.errors import ConfigError

__all__ = ["AUTO", "parse_duration"]

AUTO = "auto"
"""The time limit that is read from SLURM."""
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Return a duration such as ``90min``, ``1.5h``, ``2d`` or ``12:00:00`` in seconds.

    ``D-HH:MM:SS``, with or without the days, is the notation of SLURM.

    Raises:
        ConfigError: It is something else.
    """
    if match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d?):(\d\d)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total: float = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    elif match := re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text):
        total = float(match[1]) * UNITS[match[2]]
    else:
        total = 0
    if not total:
        raise ConfigError(f"trainer.time_limit is {text!r}: expected auto, or a duration such as 90min or 12:00:00")
    return total
