"""An exponential moving average of the weights of a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from aimnet2mult.train.restoring import check_arrays

__all__ = ["AveragedWeights"]


class AveragedWeights:
    """An exponential moving average of the trained weights of a model, over the steps that were applied.

    After t steps with the weights θ₁ … θₜ, it is Σ dᵗ⁻ⁱ θᵢ / Σ dᵗ⁻ⁱ with the decay d: unlike with a fixed d from the
    initial weights on, these have no part in it, and the first steps need no other decay. This is the bias correction
    of Adam (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980, section 3). Before the first step, it is θ₀. Frozen
    weights and buffers are always those of the model.

    Nothing is read from the device. This is the reason for not using torch's ``AveragedModel``, which waits for it in
    each update, or ignite's ``EMAHandler``, which also averages over steps that were not applied.

    Args:
        model: the model, on its device.
        decay: the decay per step, above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._weights.items()}
        device = next(iter(self._averages.values())).device
        # Σ dᵗ⁻ⁱ, which tends to 1 / (1 - d).
        self._total = torch.zeros((), dtype=torch.float64, device=device)
        self._is_applied = False

    @torch.no_grad()
    def update(self, applied: Tensor) -> None:
        """Add the current weights after a step, unless ``applied``, a scalar boolean, is false."""
        counted = applied.double()
        self._total.mul_(1 - (1 - self._decay) * counted).add_(counted)
        share = counted / self._total.clamp(min=1)
        for averages, weights in self._by_type():
            change = torch._foreach_sub(weights, averages)  # noqa: SLF001 - as in torch's own averages
            torch._foreach_mul_(change, share.to(averages[0].dtype))
            torch._foreach_add_(averages, change)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averages in this context, which may be nested; its own weights return at the end."""
        if self._is_applied:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`; ``weights`` are named as in the state of the model."""
        return {"weights": dict(self._averages), "total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from `state_dict`.

        Raises:
            KeyError: a weight or the total is missing.
            TypeError: an array has another type.
            ValueError: an array is not finite, or has another shape.
        """
        own = self.state_dict()
        for name, array in own["weights"].items():
            if state["weights"][name].shape != array.shape:
                shape, expected = tuple(state["weights"][name].shape), tuple(array.shape)
                raise ValueError(f"{name} has shape {shape}; expected {expected}")
        check_arrays(own["weights"], state["weights"])
        check_arrays({"total": own["total"]}, {"total": state["total"]})
        for name, array in own["weights"].items():
            array.copy_(state["weights"][name])
        self._total.copy_(state["total"])

    def _exchange(self) -> None:
        """Exchange the storage of weights and averages, so that nothing is copied."""
        self._is_applied = not self._is_applied
        for name, weight in self._weights.items():
            weight.data, self._averages[name] = self._averages[name], weight.data

    def _by_type(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Yield averages and weights of each type, because operations on lists are fast only if they have one."""
        for dtype in dict.fromkeys(array.dtype for array in self._averages.values()):
            names = [name for name, array in self._averages.items() if array.dtype == dtype]
            yield [self._averages[name] for name in names], [self._weights[name].detach() for name in names]
