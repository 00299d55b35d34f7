"""The content of checkpoints and weight files."""

from pathlib import Path
from typing import Any

import torch

from aimnet2mult.models.envelope import take_out


def read_content(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint or a weight file."""
    content: dict[str, Any] = take_out(torch.load(path, weights_only=True))
    return content


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the arrays in a weight file."""
    state: dict[str, torch.Tensor] = read_content(path)["state"]
    return state
