"""The envelope of weight files and checkpoints: a pair of title and content. Does not import torch.

Other programs expect a mapping of arrays by name, and use those whose names they know. From a mapping of this trainer,
``aimnet export`` and the original's ``compile_jit`` would build a wrong model without an error. Both fail on a pair.
"""

from typing import Any

__all__ = ["CHECKPOINT", "WEIGHTS", "enclose", "take_out"]

WEIGHTS = "aimnet2mult weights"
CHECKPOINT = "aimnet2mult checkpoint"


def enclose(title: str, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what to write to a file."""
    return title, content


def take_out(value: Any) -> Any:
    """Return the content of what was read from a file; files of earlier versions and of others have no envelope."""
    match value:
        case (str(title), content) if title in (WEIGHTS, CHECKPOINT):
            return content
    return value
