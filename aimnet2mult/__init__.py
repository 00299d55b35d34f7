"""Mixed-fidelity AIMNet2 training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from aimnet2mult.models.predictor import Predictor

__version__ = "0.2.0"


def load_model(
    model: str | Path,
    fidelity: str | None = None,
    *,
    weights: Literal["best", "last"] = "best",
    device: str = "auto",
) -> Predictor:
    """Load a trained model for predictions.

    Args:
        model: A run folder, a weight file written by ``--save``, or a file in the ``checkpoints`` of a run.
        fidelity: Name of the fidelity to predict; may be left out if there is only one.
        weights: For a run folder, the weights of the best validation, or the last ones.
        device: Where to evaluate the model, such as ``cpu`` or ``cuda``; by default a GPU if there is one.

    Raises:
        ConfigError: A file cannot be read, names a class that is not trusted, or there is no such fidelity.
        ModelError: The model cannot be built.
    """
    from aimnet2mult.config.user_path import expand_user
    from aimnet2mult.models.predictor import Predictor
    from aimnet2mult.models.saved_model import read_saved_model

    return Predictor(read_saved_model(expand_user(model), weights), fidelity, device)
