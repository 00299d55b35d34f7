"""The TensorBoard sink: event files in the run folder."""

from sinks.tensorboard.sink import TensorBoardSink

__all__ = ["TensorBoardSink"]
