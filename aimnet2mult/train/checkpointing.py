"""Checkpoints: all that an exact resume needs, written whole or not at all.

A file is ``checkpoints/step-00001200.pt`` in the run folder; the iteration is in its name, so that it is
known before torch is imported.
"""

from __future__ import annotations

import io
import pickle
import random
import re
import zipfile
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

from aimnet2mult.errors import CheckpointError
from telemetry.run_folder.atomic_write import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "Stateful",
    "damaged",
    "load",
    "newest",
    "random_state",
    "save",
    "save_diverged",
    "set_aside",
    "set_random_state",
    "step_of",
]

FOLDER = "checkpoints"
DIVERGED = "diverged.pt"
PATTERN = re.compile(r"step-(\d{8,})\.pt")
PACKAGES = ("aimnet2mult", "aimnet", "torch", "numpy")


class Stateful(Protocol):
    """What a checkpoint holds: anything with a state of tensors and plain values."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any, /) -> object: ...


def step_of(path: Path) -> int:
    """Return the iteration after which the checkpoint was taken."""
    match = PATTERN.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named as a checkpoint is: step-00001200.pt")
    return int(match[1])


def newest(run: Path) -> Path | None:
    """Return the newest checkpoint of a run that is whole, or None. Does not import torch."""
    return next((path for path in reversed(_checkpoints(run / FOLDER)) if _whole(path)), None)


def damaged(run: Path) -> list[Path]:
    """Return the checkpoints after the newest one that is whole."""
    found = _checkpoints(run / FOLDER)
    last = newest(run)
    return found if last is None else found[found.index(last) + 1 :]


def save(
    run: Path,
    step: int,
    parts: Mapping[str, Stateful],
    *,
    position: Mapping[str, Any],
    keep: int,
    last_healthy_step: int | None = None,
) -> Path:
    """Write a checkpoint after iteration step; of the others leave the keep - 1 newest before it.

    So is the newest of an iteration up to ``well``, if it is given, whether it is one of them or not.

    position is plain values that say where training is. On return the file is on disk; a crash on the way
    leaves the earlier ones untouched. Raises OSError where it cannot be written.
    """
    path = run / FOLDER / f"step-{step:08d}.pt"
    _write(path, step, parts, position)
    _prune(path.parent, path, keep, step if last_healthy_step is None else last_healthy_step)
    return path


def save_diverged(run: Path, step: int, parts: Mapping[str, Stateful], *, position: Mapping[str, Any]) -> Path:
    """Write the state of a training that has diverged beside the checkpoints, to be looked at; raises OSError."""
    path = run / FOLDER / DIVERGED
    _write(path, step, parts, position)
    return path


def set_aside(run: Path, *, after: int) -> None:
    """Rename the checkpoints of later iterations, so that a resume goes on with one before; raises OSError."""
    for path in _checkpoints(run / FOLDER):
        if step_of(path) > after:
            path.replace(path.with_name(f"diverged-{path.name}"))


def _write(path: Path, step: int, parts: Mapping[str, Stateful], position: Mapping[str, Any]) -> None:
    import torch

    state = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "position": {**position, "iteration": step},
        "random": random_state(),
        "versions": _versions(),
    }
    # Through memory, since torch turns a full disk into errors of other types.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, buffer.getbuffer(), mode=0o666)


def load(path: Path, parts: Mapping[str, Stateful], *, device: Any) -> dict[str, Any]:
    """Load a checkpoint into parts, set the random states, and return its position.

    Raises CheckpointError where it does not fit.
    """
    import torch

    try:
        # Only tensors and plain values: a checkpoint from elsewhere runs no code.
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
    except (OSError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the checkpoint {path} does not fit this run: {reason:.500}") from error
    set_random_state(state["random"])
    position: dict[str, Any] = state["position"]
    return position


def random_state() -> dict[str, Any]:
    """Return the state of every random generator of the process: python's, numpy's, torch's, CUDA's."""
    import numpy as np
    import torch

    python_version, python_state, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - the global generator
    return {
        "python": (python_version, list(python_state), gauss),
        "numpy": (name, torch.from_numpy(keys.astype("int64")), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set every random generator to what `random_state` returned."""
    import numpy as np
    import torch

    python_version, python_state, gauss = state["python"]
    random.setstate((python_version, tuple(python_state), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype("uint32"), *rest))  # noqa: NPY002 - the global generator
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def _whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _prune(folder: Path, latest: Path, keep: int, last_healthy_step: int) -> None:
    found = _checkpoints(folder)
    position = found.index(latest)
    good = [path for path in found if step_of(path) <= last_healthy_step][-1:]
    # Those after the latest are of a stretch that a resume has superseded, or damaged.
    superseded = [*found[position + 1 :], *folder.glob("*.tmp")]
    for path in [*found[: max(0, position + 1 - keep)], *superseded]:
        if path not in good:
            path.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*.pt") if PATTERN.fullmatch(path.name)), key=step_of)


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
