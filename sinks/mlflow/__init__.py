"""The MLflow sink: a tracking server, or an SQLite file."""

from sinks.mlflow.sink import MlflowSink

__all__ = ["MlflowSink"]
