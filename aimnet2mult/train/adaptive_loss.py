"""A loss whose components contribute given shares, by the algorithm of the original trainer's class of this name."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.layout import LossTerms
from aimnet2mult.train.loss import MTLoss
from aimnet2mult.train.loss_weights import as_tensor

__all__ = ["MTAdaWLoss"]


class MTAdaWLoss(MTLoss):
    """A sum of losses, each multiplied by a scale that adapts until the component has its share of the sum.

    After each training batch, the scale of every component but the first is multiplied by 1 - ``eta`` if the component
    exceeds its share of the loss of the batch, otherwise by 1 + ``eta``. Unlike in the original trainer, a component
    keeps its scale in batches without any of its labels, where it would otherwise grow without limit, and validations
    change no scale; neither do batches whose loss is not finite.

    Args:
        components: settings of each component by name: those of `MTLoss`, where ``weight`` divided by the sum of the
            weights is the share; and ``scale``, the initial scale.
        eta: the relative change of a scale in a batch.

    Raises:
        ConfigError: a component is invalid as for `MTLoss`, has a weight that changes, or a ``scale`` that is not a
            finite number above 0; or ``eta`` is not between 0 and 1.
    """

    def __init__(self, components: Mapping[str, Mapping[str, Any]], eta: float = 0.001) -> None:
        scales = tuple(_scale(name, component) for name, component in components.items())
        if isinstance(eta, bool) or not isinstance(eta, int | float) or not 0 < eta < 1:
            raise ConfigError(f"loss.kwargs.eta is {eta!r}; expected a number between 0 and 1")
        plain = {
            name: {key: value for key, value in part.items() if key != "scale"} for name, part in components.items()
        }
        super().__init__(plain)
        if self.weights.change:
            raise ConfigError("loss.class is MTAdaWLoss, whose weights are shares and cannot change; use MTLoss")
        self._shares, self._steps = self.weights.final, (0.0, *[float(eta)] * (len(scales) - 1))
        self._scales = torch.tensor(scales, dtype=torch.float64)
        self.terms = LossTerms(names=tuple(components), weights=scales)
        """The components and their initial scales: published losses do not depend on the adaptation."""

    def __call__(self, y_pred: Mapping[str, Tensor], y_true: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses as `MTLoss` does; during training, adapt the scales for the next batch."""
        losses = super().__call__(y_pred, y_true)
        if torch.is_grad_enabled():
            counts = losses.sums_and_counts[1]  # type: ignore[attr-defined] # `Losses`
            self._adapt(torch.stack([losses[name] for name in self.terms.names]).detach().double(), counts)
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        return {"components": list(self.terms.names), "scales": self._scales.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scales.

        Raises:
            ValueError: they are those of other components, or not finite numbers above 0.
        """
        names, scales = list(self.terms.names), torch.as_tensor(state["scales"], dtype=torch.float64)
        if state["components"] != names or scales.shape != self._scales.shape:
            raise ValueError(f"the saved scales are for {state['components']}; this run has {names}")
        if not bool((scales.isfinite() & (scales > 0)).all()):
            raise ValueError(f"the saved scales are {scales.tolist()}; expected finite numbers above 0")
        self._scales = scales.clone()

    def _current_weights(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        self._scales = self._scales.to(device)
        if torch.is_grad_enabled():
            self.current_weights = self._scales
        return self._scales.to(dtype)

    @torch.no_grad()
    def _adapt(self, losses: Tensor, counts: Tensor) -> None:
        if self._communicator.world_size > 1:
            # The sum over the ranks is the loss of the whole batch, times a factor that has no effect on the shares.
            both = torch.stack((losses, counts))
            self._communicator.all_reduce_sum(both)
            losses, counts = both.unbind()
        total = losses.sum()
        exceeds = losses / total > as_tensor(self._shares, torch.float64, losses.device)
        steps = as_tensor(self._steps, torch.float64, losses.device)
        steps = torch.where(exceeds, -steps, steps) * (counts > 0)
        # A new tensor: the old one is part of the graph of this batch.
        self._scales = torch.where(total.isfinite(), self._scales * (1 + steps), self._scales)


def _scale(name: str, component: Mapping[str, Any]) -> float:
    scale = component.get("scale")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ConfigError(f"the scale of loss component {name!r} is {scale!r}; expected a finite number above 0")
    return float(scale)
