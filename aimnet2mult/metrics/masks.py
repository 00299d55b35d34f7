"""Brings masks and labels to one shape, from what the shapes say and never from the values.

``(B, 1)`` against ``(B,)`` broadcasts to ``(B, B)`` without a complaint; here it becomes ``(B,)``,
and whatever does not fit is an error.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["mask_name", "reshaped", "widened_mask"]


def mask_name(label: str) -> str:
    """Return the key that a label's mask has beside the label: ``forces_mask`` for ``forces``."""
    return f"{label}_mask"


def reshaped(array: Tensor, shape: Sequence[int], what: str) -> Tensor:
    """Return a view in the given shape of an array that has it, or has it with one more axis of 1.

    Raises ValueError naming `what` and both shapes.
    """
    wanted = tuple(shape)
    if array.shape == wanted:
        return array
    if array.shape == (*wanted, 1):
        return array.squeeze(-1)
    raise ValueError(f"{what} has shape {tuple(array.shape)}; expected {wanted}")


def widened_mask(mask: Tensor, structures: int, atoms: int, what: str, *, per_atom: bool) -> Tensor:
    """Return a mask as booleans of shape (B, 1), or (B, N) if it tells atoms apart.

    Non-zero is True. A mask may have the shape (B,) or (B, 1) and, for a label per atom, also
    (B, N) or (B, N, 1). Raises ValueError naming `what` for any other.
    """
    if mask.dtype is not torch.bool:
        mask = mask.to(torch.bool)
    shape = mask.shape
    if shape == (structures,):
        return mask.unsqueeze(-1)
    if shape == (structures, 1) or (per_atom and shape == (structures, atoms)):
        return mask
    if per_atom and shape == (structures, atoms, 1):
        return mask.squeeze(-1)
    expected = f"({structures},), ({structures}, 1)"
    if per_atom:
        expected += f", ({structures}, {atoms}) or ({structures}, {atoms}, 1)"
    raise ValueError(f"{what} has shape {tuple(shape)}; expected {expected}")
