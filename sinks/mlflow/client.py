"""Calls of MLflow's client: what surrounds them, and what their failures mean."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sinks.mlflow.tracking_uri import Place
from telemetry.sink_api import SinkRejected, SinkUnavailable, TelemetryError, backend_errors

Client = Any
"""An ``MlflowClient``, or what behaves as one."""

# The journal is what tries again: sooner, and without a second run when only the answer to create_run was lost.
_ALWAYS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Usage data would go to the internet, which compute nodes do not have.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_UNLESS_SET = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # A pooled connection goes on writing to an SQLite file that has been removed.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
_LOGGERS = ("mlflow", "alembic", "sqlalchemy.engine")
_STATUS = re.compile(r"failed with error code (\d{3}) ")
_REFUSALS = {400, 413, 422}
_LOGIN_CURE = (
    "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, in the environment, and "
    "deliver again"
)


def connect(uri: str) -> Client:
    """Give a client for a tracking URI. Makes or opens the store of a database, asks a server nothing."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


@contextmanager
def calls(place: Place) -> Iterator[None]:
    """Surround calls of MLflow: short time-outs, silence, and telemetry's errors instead of MLflow's.

    Raises:
        SinkRejected: MLflow, or what it needs for this place, is not installed.
        SinkUnavailable: for anything else that is not telemetry's own.
    """
    with backend_errors("mlflow"), _environment(), _silence():
        try:
            yield
        except (TelemetryError, ImportError):
            raise
        except Exception as error:  # noqa: BLE001 - a backend may raise anything
            # Neither its text nor the error itself may bring the login of the address to light.
            raise SinkUnavailable(f"mlflow: {place.without_login(say(error))}") from None


@contextmanager
def opening(place: Place) -> Iterator[None]:
    """Tell a login that is refused from other failures; within ``calls``.

    Raises:
        SinkRejected: the server lets nobody in, or not this one.
    """
    try:
        yield
    except Exception as error:
        if status(error) in {401, 403}:
            msg = f"{place.shown} refuses the login ({place.without_login(say(error))}): {_LOGIN_CURE}"
            raise SinkRejected(msg) from None
        raise


def status(error: Exception) -> int:
    """Give the HTTP status that an error of MLflow's stands for; 0 for any other error."""
    # An answer that is no JSON loses its status, unless MLflow has a name for it.
    told = _STATUS.search(str(error))
    if told is not None:
        return int(told[1])
    get = getattr(error, "get_http_status_code", None)
    return int(get()) if get is not None else 0


def is_refusal(error: Exception) -> bool:
    """Say whether MLflow would refuse the same call again."""
    return status(error) in _REFUSALS


def say(error: Exception) -> str:
    """Give an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]


_lock = threading.Lock()
_inside = 0
_before: dict[str, str | None] = {}


@contextmanager
def _environment() -> Iterator[None]:
    """Set MLflow's settings, which it reads at each call, and put back what was there when the last thread leaves."""
    global _inside  # noqa: PLW0603 - so is the environment
    with _lock:
        if _inside == 0:
            new = _ALWAYS | {name: value for name, value in _UNLESS_SET.items() if name not in os.environ}
            _before.clear()
            _before.update({name: os.environ.get(name) for name in new})
            os.environ.update(new)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for name, value in _before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value


class _Others(logging.Filter):
    """Lets through what other threads say."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what MLflow would print of this thread's calls to itself: all of it is in the errors."""
    import mlflow  # noqa: F401 - its import is what makes the handlers

    handlers = {handler for name in _LOGGERS for handler in logging.getLogger(name).handlers}
    others = _Others()
    for handler in handlers:
        handler.addFilter(others)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(others)
