"""The Weights & Biases sink: online, or offline files for ``wandb sync``."""

from sinks.wandb.sink import WandbSink

__all__ = ["WandbSink"]
