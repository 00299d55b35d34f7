"""Whether a run folder may choose a tracking URI without the user's confirmation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

from sinks.mlflow.sqlite_store import find_foreign
from sinks.mlflow.tracking_uri import DEFAULT_STORE, TrackingUri, default_tracking_uri, resolve_tracking_uri
from telemetry.sink_api import SinkRejected, is_inside

_CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)
"""Variables with which MLflow authenticates itself at any server."""
_CREDENTIALS_FILE = "~/.mlflow/credentials"
_WEB = ("http://", "https://")


def is_harmless(uri: str, run: Path) -> bool:
    """Return whether neither credentials of the user are sent to a tracking URI, nor a file of the user is written.

    This holds for the URI of the user's environment, the default store, a store inside the run folder, and for a
    server if MLflow has no credentials. A database may receive credentials in ways that only its driver knows.
    """
    run = run.resolve()
    chosen = resolve_tracking_uri(uri, run.parent)
    if chosen.shown in {own.shown for own in _own_uris(run.parent)}:
        return True
    if chosen.file is not None:
        return is_inside(str(chosen.file), run)
    return chosen.uri.startswith(_WEB) and not _has_credentials()


def _own_uris(runs: Path) -> Iterator[TrackingUri]:
    with suppress(SinkRejected):
        if not find_foreign(runs / DEFAULT_STORE):
            yield default_tracking_uri(runs)
    with suppress(SinkRejected):
        if os.environ.get("MLFLOW_TRACKING_URI"):
            yield resolve_tracking_uri(None, runs)


def _has_credentials() -> bool:
    """Return whether MLflow would send credentials, which do not depend on the server."""
    return (
        any(os.environ.get(name) for name in _CREDENTIALS)
        or os.path.lexists(Path(_CREDENTIALS_FILE).expanduser())
        # Plugins may add headers to any request.
        or bool(entry_points(group="mlflow.request_header_provider"))
    )
