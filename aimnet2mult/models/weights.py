"""Files that contain only weights: read by ``--load``, written by ``--save``."""

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn

from aimnet2mult.errors import CheckpointError
from aimnet2mult.models.build import unwrap
from aimnet2mult.models.description import BestRecord, Description, describe_run, from_plain
from aimnet2mult.models.envelope import WEIGHTS, enclose, take_out
from aimnet2mult.models.torch_file import load_file
from telemetry.errors import error_text
from telemetry.run_folder.atomic_write import atomic_write, remove_temporary_files

__all__ = ["WeightFile", "are_finite", "check_arrays", "read_state", "save_checkpoint_weights", "save_weights"]


class WeightFile(NamedTuple):
    """The content of a weight file or a checkpoint; of the first two entries, nothing is checked."""

    description: Any
    """None if there is none."""
    state: Any
    """The weights."""
    best: BestRecord | None = None
    """The validation of the weights in ``best.pt``; None in other files, and in those of earlier versions."""


def are_finite(model: nn.Module) -> bool:
    """Return whether all parameters of a model are finite; waits for the device."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def save_weights(
    model: nn.Module,
    description: Description,
    path: Path,
    *,
    mode: int | None = 0o666,
    best: BestRecord | None = None,
) -> None:
    """Write the weights of a model atomically, without the name prefix of the wrapper that computes forces.

    Args:
        model: The model.
        description: What the model is.
        path: The file.
        mode: The permissions of the file, before the umask; None for those of the files of a run.
        best: The validation of these weights, if they are the best ones.

    Raises:
        OSError: The file cannot be written; an earlier version of it is kept.
    """
    _save(unwrap(model).state_dict(), description.to_plain(), path, mode, best)


def save_checkpoint_weights(checkpoint: Path, run: Path, path: Path) -> None:
    """Write the weights in a checkpoint as `save_weights` would have written them.

    Args:
        checkpoint: The checkpoint.
        run: The run folder, which describes the model of a checkpoint of an earlier version.
        path: The file.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ConfigError: The run folder cannot be read; DataError for its reference energies.
        OSError: The file cannot be written; an earlier version of it is kept.
    """
    try:
        content = take_out(load_file(checkpoint))
        state = _without_prefix(content)
        plain = content.get("description")
        description = None if plain is None else from_plain(plain)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint {checkpoint}: {_reason(error)}") from error
    _save(state, (description or describe_run(run)).to_plain(), path, 0o666)


def read_state(path: Path) -> WeightFile:
    """Return the content of a weight file or a checkpoint.

    Raises:
        OSError: The file cannot be opened, or is not a regular file.
        ValueError: The file is damaged or contains other objects.
    """
    content = take_out(load_file(path))
    if not isinstance(content, dict):
        return WeightFile(None, content)
    if "parts" in content:
        return WeightFile(content.get("description"), _without_prefix(content))
    if "description" not in content:
        return WeightFile(None, content)
    best = msgspec.convert(content.get("best"), BestRecord | None)
    return WeightFile(content["description"], content.get("state"), best)


def _save(
    state: Mapping[str, torch.Tensor],
    plain: dict[str, Any],
    path: Path,
    mode: int | None,
    best: BestRecord | None = None,
) -> None:
    # Serialize to memory first, because torch converts disk-full errors to other types.
    buffer = io.BytesIO()
    content = {"description": plain, "state": dict(state)}
    if best is not None:
        content["best"] = asdict(best)
    torch.save(enclose(WEIGHTS, content), buffer)
    remove_temporary_files(path)
    atomic_write(path, buffer.getbuffer(), mode=mode)


def _without_prefix(checkpoint: Any) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint, without the name prefix of the wrapper that computes forces.

    The averaged weights, if there are any, replace those of the last step.
    """
    try:
        parts = checkpoint["parts"]
        state = {**parts["model"], **parts.get("average", {"weights": {}})["weights"]}
        return {name.removeprefix("module."): array for name, array in state.items()}
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError("it has no entry parts.model with named arrays") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or f"{error_text(error):.500}"


def check_arrays(state: Any, may_be_nan: Callable[[str], bool] = lambda _: False) -> None:
    """Check that weights are finite arrays with names.

    Args:
        state: The weights.
        may_be_nan: Function of a name that returns whether whole rows of this array may be NaN.

    Raises:
        TypeError: There are no names, or no arrays.
        ValueError: They are not finite.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"expected a state dict of tensors, found a {type(state).__name__}")
    for name, array in state.items():
        if not isinstance(name, str) or not isinstance(array, torch.Tensor):
            raise TypeError(f"expected a state dict of tensors, found a {type(array).__name__} as {name!r:.60}")
        values = array[~array.isnan().flatten(1).all(dim=1)] if array.ndim and may_be_nan(name) else array
        if array.is_complex() or (array.is_floating_point() and not bool(values.isfinite().all())):
            raise ValueError(f"{name} is complex or not finite")
