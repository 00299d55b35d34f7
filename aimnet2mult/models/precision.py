"""The floating-point precision in which a model computes. Weights keep their names in the state of the model."""

from collections.abc import Mapping
from typing import Any

import torch
from aimnet.models.base import AIMNet2Base
from torch import Tensor, nn

from aimnet2mult.errors import ModelError

__all__ = ["has_double_weights", "use_bfloat16", "use_float64"]


def use_float64(model: nn.Module) -> None:
    """Convert the weights of a model, and all its inputs from now on, to float64."""
    model.double()
    for module in model.modules():
        if isinstance(module, AIMNet2Base):
            # Otherwise aimnet would convert the inputs back to the default type at the time it was imported.
            for name in ("_required_keys_dtype", "_optional_keys_dtype"):
                setattr(module, name, [_doubled(dtype) for dtype in getattr(module, name)])
    # Also for a model that converts nothing itself; forces have the type of the coordinates.
    model.register_forward_pre_hook(_double_inputs)


def use_bfloat16(model: nn.Module) -> None:
    """Let the hidden layers of an AIMNet2's message passing compute in bfloat16, by autocast, in training mode only.

    These layers do most of the work. All weights, distances, charges, energies, sums over atoms and the last layer of
    each network, whose values have an absolute meaning, remain in float32. In evaluation mode, everything does.

    Raises:
        ModelError: the model has no such layers.
    """
    found = [module for module in model.modules() if type(module) is nn.ModuleList and _are_networks(module)]
    networks = [network for networks in found for network in networks]
    if not networks:
        raise ModelError("trainer.precision is bfloat16, which requires an aimnet.models.AIMNet2; set it to float32")
    for network in networks:
        # Another class for the same object: the names of the weights do not change.
        network.__class__ = _HiddenInBfloat16


def has_double_weights(state: Mapping[str, Tensor]) -> bool:
    """Return whether all weights are float64, as those of a model after `use_float64`."""
    types = {array.dtype for array in state.values() if array.is_floating_point()}
    return types == {torch.float64}


class _HiddenInBfloat16(nn.Sequential):
    """A network of linear layers and activations whose last linear layer computes in float32."""

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        last = max(index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.training):
            for layer in layers[:last]:
                x = layer(x)
        x = x.to(torch.float32)
        for layer in layers[last:]:
            x = layer(x)
        return x


def _are_networks(modules: nn.ModuleList) -> bool:
    return bool(len(modules)) and all(
        type(module) is nn.Sequential and any(isinstance(layer, nn.Linear) for layer in module) for module in modules
    )


def _doubled(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


def _double_inputs(_: nn.Module, arguments: tuple[dict[str, Tensor], ...]) -> Any:
    # In place of the dictionary's values, since a model adds its predictions to the dictionary it is given.
    for data in arguments:
        for key, value in data.items():
            if value.is_floating_point():
                data[key] = value.double()
