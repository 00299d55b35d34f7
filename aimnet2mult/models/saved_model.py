"""Trained models, read from run folders, weight files and checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aimnet2mult.config import resume_rules, trust
from aimnet2mult.config.user_path import expand_user, is_file
from aimnet2mult.errors import ConfigError, ModelError, Problems
from aimnet2mult.models.build import build_model, unwrap
from aimnet2mult.models.checkpoint_folder import FOLDER, best_path, find_newest
from aimnet2mult.models.description import BestRecord, Description, describe_run, from_plain
from aimnet2mult.models.precision import has_double_weights, use_float64
from aimnet2mult.models.weights import check_arrays, read_state
from telemetry.errors import error_text

__all__ = ["SavedModel", "build_saved_model", "find_saved_model", "read_saved_model"]


@dataclass(frozen=True, kw_only=True)
class SavedModel(Description):
    """A trained model with everything needed to use it."""

    state: Mapping[str, Tensor]
    """The weights, named as in the model without aimnet's ``Forces``."""
    source: Path
    """The file that the weights come from."""
    best: BestRecord | None = None
    """The validation of weights that were the best ones; None for others, and if it is not known."""


def find_saved_model(name: str, directory: Path = Path("runs")) -> Path:
    """Return the path of a run folder or a weight file, given as such or as the name of a run in ``directory``.

    Raises:
        ConfigError: None exists.
    """
    path = expand_user(name)
    return path if path.exists() else resume_rules.find_run(name, directory)


def read_saved_model(path: Path, weights: Literal["best", "last"] = "best") -> SavedModel:
    """Read a trained model; executes no code of its files.

    Args:
        path: A run folder, a weight file that ``--save`` has written, or a file in the ``checkpoints`` of a run.
        weights: For a run folder, whether to read the weights of the best validation or those of the newest checkpoint.
            Without a best validation, these are the same.

    Raises:
        ConfigError: A file cannot be read, is not of a known format, or names a class that is not trusted.
        DataError: The reference energies of the run cannot be read.
    """
    if path.is_dir():
        return _read(_weights_in(path, weights), path)
    folder = path.absolute().parent
    in_run = folder.name == FOLDER and is_file(folder.parent / resume_rules.CONFIG_FILE)
    # A path given by the user may be a link, unlike the files of a run folder.
    return _read(path.resolve(), folder.parent if in_run else None)


def build_saved_model(saved: SavedModel, device: torch.device) -> nn.Module:
    """Build a model for evaluation; it predicts energies without reference energies, as in training.

    Leaves torch's generators as they are.

    Raises:
        ModelError: The model cannot be built, or the weights do not fit it.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            model = build_model(
                saved.definition,
                labels=saved.labels,
                n_fidelities=len(saved.fidelity_names),
                fidelity_offset=saved.fidelity_offset,
                use_fidelity_readouts=saved.use_fidelity_readouts,
            )
        if has_double_weights(saved.state):
            use_float64(model)
        unwrap(model).load_state_dict(saved.state)
    except ModelError as error:
        raise ModelError("\n".join(f"{saved.source}: {line}" for line in str(error).splitlines())) from error
    except RuntimeError as error:
        raise ModelError(f"{saved.source}: the weights do not fit the model: {error_text(error):.500}") from error
    return model.to(device).eval().requires_grad_(False)


def _weights_in(run: Path, weights: Literal["best", "last"]) -> Path:
    """Return the file with the weights of a run."""
    if not is_file(run / resume_rules.CONFIG_FILE):
        raise ConfigError(f"{run} is not a run folder: it contains no {resume_rules.CONFIG_FILE}")
    resume_rules.reject_links(run, FOLDER)
    if weights == "best" and is_file(best_path(run)):
        return best_path(run)
    newest = find_newest(run)
    if newest is None:
        raise ConfigError(f"{run} has no complete checkpoint: the run has not trained long enough to have weights")
    return newest


def _read(file: Path, run: Path | None) -> SavedModel:
    try:
        plain, state, best = read_state(file)
        check_arrays(state)
        description = from_plain(plain) if plain is not None else None
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error_text(error)
        raise ConfigError(f"cannot read the weights in {file}: {reason:.500}") from error
    if description is None:
        description = _describe(file, run)
    problems = Problems()
    trust.check_definition(description.definition, file, problems)
    problems.raise_any()
    values: dict[str, Any] = {field.name: getattr(description, field.name) for field in fields(Description)}
    return SavedModel(**values, state=state, source=file, best=best)


def _describe(file: Path, run: Path | None) -> Description:
    """Return the description of a file of an earlier version, which has none."""
    if run is None:
        raise ConfigError(
            f"{file} contains weights without a description of the model, as those of other programs and of versions "
            "before 0.2; give the run folder, or its checkpoints/best.pt"
        )
    return describe_run(run)
