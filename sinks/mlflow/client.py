"""The context in which MLflow's client is called: environment, logging, and translation of errors."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sinks.mlflow.tracking_uri import TrackingUri
from telemetry.sink_api import SinkRejected, SinkUnavailable, TelemetryError, backend_errors, format_error

Client = Any
"""An ``MlflowClient``, or an object that behaves like one."""

_FORCED_ENVIRONMENT = {
    # Delivery does its own retries: sooner, and without a second run if only the answer to create_run was lost.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Usage data would be sent to the internet, which compute nodes cannot reach.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_DEFAULT_ENVIRONMENT = {
    # In seconds.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # A pooled connection would keep writing to an SQLite file that has been removed.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
_LOGGERS = ("mlflow", "alembic", "sqlalchemy.engine")
_STATUS_IN_MESSAGE = re.compile(r"failed with error code (\d{3}) ")
_REJECTION_STATUSES = {400, 413, 422}
_CREDENTIALS_HINT = (
    "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, in the environment, and "
    "deliver again"
)


def connect(uri: str) -> Client:
    """Return a client for a tracking URI; this creates or opens the store of a database, but does not call a server."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def create_store(uri: str, artifacts: str) -> None:
    """Create the store of a database, with the artifacts of its default experiment in a folder.

    By default, they would be in the working directory of the process that creates it.
    """
    from mlflow.store.tracking import sqlalchemy_store

    # Not typed, and not part of mlflow-skinny.
    store: Any = sqlalchemy_store.SqlAlchemyStore
    store(uri, artifacts)


@contextmanager
def mlflow_calls(tracking_uri: TrackingUri) -> Iterator[None]:
    """Run MLflow calls with short timeouts and without log output, and translate their errors.

    Raises:
        SinkRejected: MLflow, or a package it needs for this URI, is not installed.
        SinkUnavailable: MLflow raised any other error; telemetry's own errors pass through.
    """
    with backend_errors("mlflow"), _environment(), _silenced_loggers():
        try:
            yield
        except (TelemetryError, ImportError):
            raise
        except Exception as error:  # noqa: BLE001 - a backend may raise anything
            # The original error is suppressed, because its message may contain credentials.
            raise SinkUnavailable(f"mlflow: {tracking_uri.redact(format_error(error))}") from None


@contextmanager
def login_errors(tracking_uri: TrackingUri) -> Iterator[None]:
    """Translate the rejection of credentials; use inside ``mlflow_calls``. Other errors pass through.

    Raises:
        SinkRejected: the server answered 401 or 403.
    """
    try:
        yield
    except Exception as error:
        if http_status(error) in {401, 403}:
            details = tracking_uri.redact(format_error(error))
            msg = f"{tracking_uri.shown} rejected the login: {_CREDENTIALS_HINT} ({details})"
            raise SinkRejected(msg) from None
        raise


def http_status(error: Exception) -> int:
    """Return the HTTP status of an MLflow error; 0 for any other error."""
    # For an answer that is not JSON, MLflow keeps the status only in the message.
    match = _STATUS_IN_MESSAGE.search(str(error))
    if match is not None:
        return int(match[1])
    get = getattr(error, "get_http_status_code", None)
    return int(get()) if get is not None else 0


def is_rejection(error: Exception) -> bool:
    """Return whether MLflow would reject the same call again."""
    return http_status(error) in _REJECTION_STATUSES


_lock = threading.Lock()
_users = 0
_original_environment: dict[str, str | None] = {}


@contextmanager
def _environment() -> Iterator[None]:
    """Set the variables that MLflow reads at each call, and restore them when the last thread leaves."""
    global _users  # noqa: PLW0603 - the environment is global, too
    with _lock:
        if _users == 0:
            defaults = {name: value for name, value in _DEFAULT_ENVIRONMENT.items() if name not in os.environ}
            new = _FORCED_ENVIRONMENT | defaults
            _original_environment.clear()
            _original_environment.update({name: os.environ.get(name) for name in new})
            os.environ.update(new)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for name, value in _original_environment.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value


class _OtherThreads(logging.Filter):
    """A filter that accepts only log records of other threads."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


@contextmanager
def _silenced_loggers() -> Iterator[None]:
    """Suppress the log output of this thread's MLflow calls: the exceptions contain the same information."""
    import mlflow  # noqa: F401 - importing it creates the handlers

    handlers = {handler for name in _LOGGERS for handler in logging.getLogger(name).handlers}
    other_threads = _OtherThreads()
    for handler in handlers:
        handler.addFilter(other_threads)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(other_threads)
