"""Damped shifted-force Coulomb energies whose forces are their derivative."""

from typing import Any

from aimnet.modules import LRCoulomb
from torch import Tensor, nn

__all__ = ["make_differentiable"]


def make_differentiable(model: nn.Module) -> None:
    """Let the Coulomb modules with ``method: dsf`` compute energies that depend on the coordinates.

    aimnet's calculator adds the forces of such a module itself. Inside a model, its energy depends on the coordinates
    only through the charges, and the forces of the model would lack those between fixed charges.
    """
    for module in model.modules():
        if type(module) is LRCoulomb and module.method == "dsf":
            # Another class for the same object: the names of the weights do not change.
            module.__class__ = _Differentiable


class _Differentiable(LRCoulomb):  # type: ignore[misc] # aimnet has no types
    """An ``LRCoulomb`` that always uses aimnet's formula in torch."""

    def forward(self, data: dict[str, Tensor], **_: Any) -> Any:
        """Add the energy to ``data``."""
        return super().forward(data, training_derivatives=True)
