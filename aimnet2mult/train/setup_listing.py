"""The settings, the model and its parameters as text, for ``--verbose``."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from aimnet2mult.config.schema import Config
from aimnet2mult.config.yaml_text import dump

__all__ = ["list_setup"]


def list_setup(config: Config, definition: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> Iterator[str]:
    """Yield lines: the settings and the model definition in YAML, and each parameter with its shape and learning rate.

    Credentials are left out.
    """
    yield "settings:"
    yield from _indented(config.to_dict())
    yield "model:"
    yield from _indented(definition)
    yield "parameters:"
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        group = groups.get(id(parameter))
        rate = "frozen" if group is None else f"lr {group['lr']:g}, weight_decay {group.get('weight_decay', 0):g}"
        yield f"  {name} {tuple(parameter.shape)}: {rate}"


def _indented(content: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"  {line}" for line in dump(content).splitlines())
