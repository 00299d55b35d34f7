"""Write a checkpoint, and restore objects from one."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from aimnet2mult.errors import CheckpointError
from aimnet2mult.models.description import Description
from aimnet2mult.models.envelope import CHECKPOINT, enclose, take_out
from aimnet2mult.models.torch_file import load_file
from aimnet2mult.train.checkpoint_peek import check_content
from aimnet2mult.train.random_state import random_state, set_random_state
from aimnet2mult.train.restoring import Stateful, restore_part
from telemetry.errors import error_text
from telemetry.run_folder.atomic_write import atomic_write, sync_folder
from telemetry.run_folder.permissions import make_folder

__all__ = ["load_checkpoint", "write_checkpoint"]

PACKAGES = ("aimnet2mult", "aimnet", "torch", "numpy")
"""Packages whose versions a checkpoint records."""


def write_checkpoint(
    path: Path, state: Mapping[str, Stateful], position: Mapping[str, Any], description: Description | None = None
) -> None:
    """Write a checkpoint atomically and durably.

    Args:
        path: the file; its folder is created if necessary.
        state: the objects to save, keyed by name.
        position: the position in the training run, as plain values.
        description: what the model is, for those who use its weights.

    Raises:
        OSError: the file cannot be written; an earlier version of it is kept.
        RuntimeError: torch cannot serialize the state.
    """
    content = {
        "parts": {name: part.state_dict() for name, part in state.items()},
        "position": dict(position),
        "random": random_state(),
        "versions": _versions(),
    }
    if description is not None:
        content["description"] = description.to_plain()
    # Serialize to memory first, because torch converts disk-full errors to other types.
    buffer = io.BytesIO()
    torch.save(enclose(CHECKPOINT, content), buffer)
    if make_folder(path.parent):
        sync_folder(path.parent.parent)
    atomic_write(path, buffer.getbuffer())


def load_checkpoint(path: Path, state: Mapping[str, Stateful]) -> dict[str, Any]:
    """Restore objects and random states from a checkpoint, and return its position.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the objects.
    """
    try:
        # Objects copy the state to their devices, except what they keep on the CPU, such as an optimizer's step count.
        content = take_out(load_file(path))
        check_content(content)
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"cannot read the checkpoint {path}: {reason}") from error
    for name, part in state.items():
        if name == "loss" and name not in content["parts"]:
            # Version 0.1 did not save the state of a loss.
            continue
        with _reporting(path, name):
            restore_part(part, content["parts"][name])
    with _reporting(path, "random"):
        set_random_state(content["random"])
    with _reporting(path, "position"):
        return dict(content["position"])


@contextlib.contextmanager
def _reporting(path: Path, entry: str) -> Iterator[None]:
    """Report any error, because neither torch nor a schedule checks the types of what it restores."""
    try:
        yield
    except Exception as error:
        reason = "it is missing" if isinstance(error, KeyError) else error_text(error)
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {entry}: {reason:.500}") from error


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
