"""The part of a model that predicts one of its fidelities."""

import torch
from torch import Tensor

from aimnet2mult.errors import ConfigError, ModelError
from aimnet2mult.models.description import Description
from aimnet2mult.models.saved_model import SavedModel
from telemetry.errors import did_you_mean

__all__ = ["find_fidelity", "weights_of_fidelity"]

PREFIX = "model."
"""What `MixedFidelity` adds to the names of AIMNet2."""
EMBEDDING = "afv.weight"
TABLES = (EMBEDDING, ".shifts.weight")
"""Endings of the names of tables with one row per element and fidelity."""


def find_fidelity(description: Description, name: str | None) -> int:
    """Return the index of a fidelity; the name may be left out if there is only one.

    Raises:
        ConfigError: There is none of this name, or several and no name.
    """
    names = description.fidelity_names
    if name is None and len(names) == 1:
        return 0
    if name is None:
        raise ConfigError(f"the model has several fidelities: {', '.join(names)}; choose one with --fidelity NAME")
    if name not in names:
        raise ConfigError(f"there is no fidelity {name!r}; the model has {', '.join(names)}{did_you_mean(name, names)}")
    return names.index(name)


def weights_of_fidelity(saved: SavedModel, fidelity: int) -> dict[str, Tensor]:
    """Return the weights of an AIMNet2 that predicts one fidelity, without its reference energies.

    Tables are reduced to the rows ``fidelity * offset …`` and heads to those of the fidelity. The rows of its elements
    are at the atomic numbers.

    Raises:
        ModelError: The weights are not those of an AIMNet2.
    """
    state = {name.removeprefix(PREFIX): value for name, value in saved.state.items()}
    if EMBEDDING not in state:
        raise ModelError(f"{saved.source}: the model is no aimnet.models.AIMNet2: it has no {EMBEDDING}")
    start = fidelity * saved.fidelity_offset
    others = (len(saved.fidelity_names) - 1) * saved.fidelity_offset
    found = {}
    for name, value in state.items():
        module, heads, rest = name.partition(".heads.")
        index, _, rest = rest.partition(".")
        if not heads:
            found[name] = _rows(value, start, len(value) - others) if name.endswith(TABLES) else value
        elif index == str(fidelity):
            found[f"{module}.{rest}"] = value
    return found


def _rows(table: Tensor, start: int, number: int) -> Tensor:
    """Return the rows of a fidelity; padding has the first row of the table in all of them."""
    return torch.cat([table[:1], table[start + 1 : start + number]])
