"""Normalize the shapes of labels and masks, without reading their values.

``(B, 1)`` and ``(B,)`` would silently broadcast to ``(B, B)``; here the former becomes ``(B,)``, and a shape that does
not fit is an error.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aimnet2mult.quantities import MASK_SUFFIX

__all__ = ["count_labeled", "expand_mask", "find_labeled", "is_mask", "mask_name", "match_shape"]


def mask_name(label: str) -> str:
    """Return the key of a label's mask in a batch: ``forces_mask`` for ``forces``."""
    return f"{label}{MASK_SUFFIX}"


def is_mask(key: str) -> bool:
    """Return whether the key of an array in a batch is that of a mask, rather than of a label."""
    return key.endswith(MASK_SUFFIX)


def match_shape(array: Tensor, shape: Sequence[int], what: str) -> Tensor:
    """Return an array in the given shape, removing a trailing axis of 1 if there is one.

    Raises:
        ValueError: the array has another shape; the message names ``what`` and both shapes.
    """
    expected = tuple(shape)
    if array.shape == expected:
        return array
    if array.shape == (*expected, 1):
        return array.squeeze(-1)
    raise ValueError(f"{what} has shape {tuple(array.shape)}; expected {expected}")


def expand_mask(mask: Tensor, structures: int, atoms: int, what: str, *, per_atom: bool) -> Tensor:
    """Return a mask as booleans of shape (B, 1), or (B, N) if it distinguishes atoms.

    Args:
        mask: the mask, (B,) or (B, 1), and for a per-atom label also (B, N) or (B, N, 1); non-zero is True.
        structures: number of structures, B.
        atoms: number of atoms per structure, N.
        what: name of the mask in the error message.
        per_atom: whether the label has a value per atom.

    Raises:
        ValueError: the mask has another shape.
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


def count_labeled(true: Mapping[str, Tensor], kept: Tensor | None = None) -> Tensor:
    """Return the number of structures with a component of any label that is not NaN, a scalar.

    Masks are not considered. Infinite labels count, because a loss that does not know better becomes infinite.

    Args:
        true: the labels and masks.
        kept: which structures to count, (B,); by default all.
    """
    found = find_labeled(true)
    if found is None:
        return torch.zeros((), dtype=torch.int64)
    return (found if kept is None else found & kept).sum()


def find_labeled(true: Mapping[str, Tensor]) -> Tensor | None:
    """Return which structures `count_labeled` counts, (B,); None if there are no labels."""
    labels = [values for key, values in true.items() if not is_mask(key)]
    labeled = [values.isnan().logical_not_().unsqueeze(-1).flatten(1).any(1) for values in labels]
    return torch.stack(labeled).any(0) if labeled else None
