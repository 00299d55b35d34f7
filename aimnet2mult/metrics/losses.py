"""The loss of a batch, and its cells in a slot of error sums."""

from collections.abc import Mapping

import torch
from torch import Tensor

from aimnet2mult.metrics.layout import Layout
from aimnet2mult.metrics.masks import count_labeled

__all__ = ["LossCells", "Losses", "sums_and_counts"]


class Losses(dict[str, Tensor]):
    """The losses of a batch by name, of which ``loss`` is the total, with the sums and counts of its components.

    Args:
        losses: the losses, scalars.
        sums_and_counts: float64 of shape (2, components), without a graph; None if they are unknown.
        sums: the sums with their graph, (components,), and the weights of the components, for `over`.
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        sums_and_counts: Tensor | None = None,
        sums: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(losses)
        self.sums_and_counts = sums_and_counts
        self._sums = sums

    def over(self, counts: Tensor) -> "Losses":
        """Return the total with each sum divided by another count, (components,), such as that of a larger batch.

        Raises:
            ValueError: the sums have no graph.
        """
        if self._sums is None:
            raise ValueError("the loss has no sums of its components")
        sums, weights = self._sums
        return Losses({"loss": (sums / counts.to(sums.dtype) * weights).sum()}, self.sums_and_counts)


def sums_and_counts(loss: Mapping[str, Tensor]) -> Tensor | None:
    """Return the sums and counts of the components of a loss, float64 of shape (2, components); None if unknown."""
    return loss.sums_and_counts if isinstance(loss, Losses) else None


class LossCells:
    """The cells of the loss in a slot.

    Args:
        slot: the slot, float64 of shape (cells,).
        layout: its layout.
    """

    def __init__(self, slot: Tensor, layout: Layout) -> None:
        terms = slot[layout.errors : -1].view(2, layout.terms)
        self._components, self._whole = terms[:, :-1], terms[:, -1]

    def store(self, loss: Mapping[str, Tensor], true: Mapping[str, Tensor], kept: Tensor | None = None) -> None:
        """Store what a loss function returned for these labels; the cells must be 0.

        Args:
            loss: what it returned.
            true: the labels.
            kept: which structures the loss covers, (B,); by default all.

        Raises:
            ValueError: a shape does not fit.
        """
        terms = sums_and_counts(loss)
        if terms is None:
            total = loss["loss"]
            if total.ndim:
                raise ValueError(f"loss has shape {tuple(total.shape)}; expected a scalar")
            count = count_labeled(true, kept).to(self._whole)
            self._whole.copy_(torch.stack((total * count, count)))
        elif terms.shape != self._components.shape:
            raise ValueError(
                f"the sums and counts of the loss have shape {tuple(terms.shape)}; "
                f"expected {tuple(self._components.shape)}"
            )
        else:
            self._components.copy_(terms)
