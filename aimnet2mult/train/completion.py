"""Whether a run has been trained as far as requested. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aimnet2mult.metrics.declarations import bare_name
from aimnet2mult.train.early_stopping import describe_stop

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config
    from aimnet2mult.errors import Problems
    from aimnet2mult.train.checkpoint_peek import Progress

__all__ = ["check_epochs", "describe_completion", "describe_low_lr"]


def check_epochs(config: Config, progress: Progress, problems: Problems) -> None:
    """Check that a run has not been trained for longer than requested."""
    # With another batch size, the number of iterations per epoch is known only once the data have been read.
    if _has_same_epochs(config, progress) and config.trainer.epochs < progress.epoch:
        problems.add(
            f"trainer.epochs is {config.trainer.epochs}, but the run is already in epoch {progress.epoch}; increase it"
        )


def describe_completion(config: Config, progress: Progress) -> str:
    """Return why a finished run has nothing left to train, or "" if it has."""
    if progress.owes_validation or not _has_same_epochs(config, progress):
        return ""
    epochs = config.trainer.epochs
    if progress.iteration == epochs * progress.epoch_length:
        return f"nothing left to train after epoch {epochs}; increase trainer.epochs to continue"
    early, settings = progress.early_stopping, config.trainer.early_stopping
    same = early.metric is not None and settings.metric is not None and early.metric == bare_name(settings.metric)
    if same and early.waited >= settings.patience:
        why = describe_stop(str(early.metric), early.waited, early.iteration, progress.epoch_length)
        return f"nothing left to train: {why}; increase trainer.early_stopping.patience to continue"
    low_lr = describe_low_lr(config, progress.lowest_lr)
    return f"nothing left to train: {low_lr}" if low_lr and progress.iteration % progress.epoch_length == 0 else ""


def describe_low_lr(config: Config, lowest: float) -> str:
    """Return that the lowest learning rate is below ``trainer.stop_below_lr``, or ""."""
    limit = config.trainer.stop_below_lr
    if limit is None or lowest >= limit:
        return ""
    return f"learning rate {lowest:.3g} is below trainer.stop_below_lr {limit:.3g}"


def _has_same_epochs(config: Config, progress: Progress) -> bool:
    return progress.samplers in (None, config.to_dict()["data"]["samplers"]["train"])
