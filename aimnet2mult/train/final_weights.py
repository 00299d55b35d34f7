"""Write the weights of a finished run to ``--save``, and record them as artifacts.

A failure loses nothing: the checkpoint contains them.
"""

from pathlib import Path

from torch import nn

from aimnet2mult.config.import_path import allow_flags
from aimnet2mult.models.checkpoint_folder import best_path, final_path, find_newest
from aimnet2mult.models.description import Description
from aimnet2mult.models.weights import save_checkpoint_weights, save_weights
from aimnet2mult.train.components import Components
from aimnet2mult.train.reporter import Bus
from telemetry.run_folder.paths import shell_path

__all__ = ["record_artifacts", "save_from_checkpoint", "save_model"]


def save_model(model: nn.Module, description: Description, path: Path, run: Path) -> str:
    """Write the final weights of a model to ``path``, and return why that failed, or ""."""
    try:
        save_weights(model, description, path)
    except OSError as error:
        return _describe(error, path, find_newest(run), run)
    return ""


def record_artifacts(bus: Bus, components: Components, run: Path, iteration: int) -> str:
    """Write the final weights to the run folder, record them and the best ones, and return why that failed, or ""."""
    final, best = final_path(run), best_path(run)
    try:
        with components.evaluation_weights():
            save_weights(components.model, components.description, final, mode=None)
    except OSError as error:
        return f"cannot write the weights to {final}: {error.strerror or error}"
    for name, path in (("final", final), ("best", best)):
        if path.exists():
            bus.artifact(f"weights/{name}", iteration, path, type="model")
    return ""


def save_from_checkpoint(checkpoint: Path, path: Path, run: Path) -> str:
    """Write the weights in the last checkpoint of a run to ``path``, and return why that failed, or "".

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    try:
        save_checkpoint_weights(checkpoint, run, path)
    except OSError as error:
        return _describe(error, path, checkpoint, run)
    return ""


def _describe(error: OSError, path: Path, checkpoint: Path | None, run: Path) -> str:
    problem = f"cannot write the weights to {path}: {error.strerror or error}"
    if checkpoint is None:
        return f"{problem}; there is no checkpoint that contains them"
    again = f"aimnet2mult train --resume {shell_path(run)}{allow_flags()} --save PATH"
    return f"{problem}; {checkpoint} contains them; to save them: {again}"
