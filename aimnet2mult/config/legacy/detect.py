"""Recognition of settings in the format of the original trainer."""

from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.nested import Tree

__all__ = ["LEGACY_KEYS", "is_legacy"]

LEGACY_KEYS = (
    "wandb",
    "metrics",
    "val_frequency",
    "data.x",
    "data.separate_val",
    "data.ddp_load_full_dataset",
    "data.sae.energy.mode",
    "data.samplers.train.kwargs",
    "data.samplers.val.kwargs",
    "optimizer.grad_clip",
    "scheduler.terminate_on_low_lr",
    "scheduler.kwargs.metric_name",
    "checkpoint.dirname",
    "checkpoint.filename_prefix",
    "checkpoint.save_best",
    "checkpoint.kwargs",
    "log_frequency.train",
)
"""Keys that exist only in the original format."""

# A single one is more likely a mistake in a file of the current format, and is then reported as an unknown key.
MIN_LEGACY_KEYS = 2


def is_legacy(layer: Tree) -> bool:
    """Return whether a layer of settings is in the original format."""
    return sum(nested.has(layer, key) for key in LEGACY_KEYS) >= MIN_LEGACY_KEYS
