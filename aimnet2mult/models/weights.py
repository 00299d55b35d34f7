"""Files of weights alone: what `--load` starts from and `--save` leaves."""

import pickle
from pathlib import Path

import torch
from aimnet.modules import Forces
from torch import nn

from aimnet2mult.config.legacy.weights import translate_weights
from aimnet2mult.errors import ConfigError
from aimnet2mult.models.weight_transfer import adapt_weights
from telemetry.run_folder.atomic_write import atomic_write

__all__ = ["are_finite", "load_weights", "save_weights"]


def are_finite(model: nn.Module) -> bool:
    """Say whether all of a model's parameters are finite; this waits for the device."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights, whole or not at all; without the wrapper that makes forces, as aimnet has them."""
    atomic_write(path, lambda file: torch.save(_core(model).state_dict(), file), mode=0o666)


def load_weights(model: nn.Module, path: Path) -> str:
    """Load what a file of weights has for this model, and say in a line what that is.

    The file may be a checkpoint, of a model with other fidelities, or of the original trainer. What it lacks keeps its
    initial values. Raises ConfigError if the file cannot be read, a shape differs, or no name is common.
    """
    core = _core(model)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(held, dict) and "parts" in held:
            # A checkpoint has them as the wrapper that makes forces does.
            held = {name.removeprefix("module."): array for name, array in held["parts"]["model"].items()}
        given = translate_weights(held)
        state, notes = adapt_weights(core, given)
        missing, unexpected = core.load_state_dict(state, strict=False)
    except ConfigError:
        raise
    except (pickle.UnpicklingError, EOFError) as error:
        # torch's own words advise to load it in a way that runs code.
        raise ConfigError(f"load: {path} does not hold weights: it is no file of tensors by name") from error
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"load: {path} does not hold weights of this model: {reason:.500}") from error
    total = len(core.state_dict())
    if len(missing) == total:
        raise ConfigError(f"load: {path} holds no weight of this model; it has {_some(list(state))}")
    line = f"weights: {total - len(missing)} of {total} arrays from {path}"
    if notes:
        line += f"; {'; '.join(notes)}"
    if missing:
        line += f"; initial values for {_some(missing)}"
    if unexpected:
        line += f"; not used: {_some(unexpected)}"
    return line


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")  # noqa: PLR2004


def _core(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, Forces) else model
