"""The tracking URI of MLflow: chosen, checked, and displayed without credentials."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from sinks._paths import shell_command
from telemetry.sink_api import SettingError, SinkRejected

DEFAULT_STORE = "mlflow.db"
"""Name of the SQLite file next to the run folders."""
_SQLITE = "sqlite:///"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_WEB = ("http://", "https://")
_DEFAULT_SERVER = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` listens."""
_CLASSIC_PAGE = "workflowType=machine_learning"
"""Without it, MLflow 3 opens the page of traces of language models, on which the run has no curves."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_KNOWN_SCHEMES = ("http", "https", "databricks", "databricks-uc", "uc", *_DATABASES)
_SECRET_PARAMETER = re.compile(r"(?i)[?&][^=&]*(passw|token|secret|key)[^=&]*=")
_EXPECTED = (
    "expected the URL of a server (http://…) or of a database (sqlite:////absolute/path.db), databricks, or a URI of "
    "an MLflow plugin"
)


@dataclass(frozen=True)
class TrackingUri:
    """A tracking URI.

    Attributes:
        uri: the URI for MLflow, including any credentials.
        shown: the URI for display, without credentials.
        file: the file of an SQLite store; None for other stores.
    """

    uri: str
    shown: str
    file: Path | None = None

    @property
    def needs_sqlalchemy(self) -> bool:
        """Whether the store is a database that MLflow accesses directly, without a server."""
        return self.uri.startswith(_DATABASES)

    def redact(self, text: str) -> str:
        """Remove the credentials of the URI from a text that may contain it."""
        credentials = _credentials(self.uri)
        return text.replace(self.uri, self.shown).replace(credentials, "") if credentials else text

    def view(self, experiment_id: str, run_id: str) -> str:
        """Return the URL of a run's curves, for a database on the line after the command; empty for others."""
        page = f"/#/experiments/{experiment_id}/runs/{run_id}/model-metrics?{_CLASSIC_PAGE}"
        if self.shown.startswith(_WEB):
            return f"{self.shown}{page}"
        if "://" not in self.shown:
            return ""
        # A URI with credentials can only come from the environment, so the command can refer to the variable.
        uri = shlex.quote(self.shown) if self.shown == self.uri else '"$MLFLOW_TRACKING_URI"'
        return f"{shell_command('mlflow')} ui --backend-store-uri {uri}\n{_DEFAULT_SERVER}{page}"


def validate_option(uri: str) -> None:
    """Check the option ``tracking_uri``.

    Raises:
        SettingError: it contains credentials, or is not a URI that MLflow can write to.
    """
    if _credentials(uri) or _SECRET_PARAMETER.search(uri):
        msg = (
            "telemetry.mlflow.tracking_uri contains credentials, which do not belong in options; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment, or the whole URI as "
            "MLFLOW_TRACKING_URI"
        )
        raise SettingError(msg)
    try:
        resolve_tracking_uri(uri, Path("/"))
    except SinkRejected as error:
        raise SettingError(str(error)) from None


def resolve_tracking_uri(option: str | None, runs: Path) -> TrackingUri:
    """Return the tracking URI: the option, else MLFLOW_TRACKING_URI, else an SQLite file next to the run folders.

    Args:
        option: the value of the option ``tracking_uri``.
        runs: the parent of the run folder. A relative path of an SQLite file is resolved against it, not against
            the working directory.

    Raises:
        SinkRejected: MLflow cannot write to this URI, or the default file is a link.
    """
    source = "MLFLOW_TRACKING_URI" if option is None else "telemetry.mlflow.tracking_uri"
    uri = (os.environ.get("MLFLOW_TRACKING_URI") or _default(runs) if option is None else option).strip()
    scheme = _SCHEME.match(uri)
    if scheme is None and uri != "databricks":
        _reject(source, uri, f"not a URI; {_EXPECTED}")
    if scheme is not None and scheme[0] == "file":
        _reject(source, uri, f"MLflow no longer stores runs in folders; {_EXPECTED}")
    if scheme is not None and not _is_known(scheme[0].partition("+")[0]):
        _reject(source, uri, f"MLflow has no store for the scheme {scheme[0]!r}; {_EXPECTED}")
    if scheme is not None and scheme[0] == "sqlite":
        return _resolve_sqlite(source, uri, runs)
    uri = uri.rstrip("/")
    shown = uri.replace(_credentials(uri), "", 1)
    # The query of a database URI may contain a password as well.
    return TrackingUri(uri, shown if shown.startswith(_WEB) else shown.partition("?")[0])


def default_tracking_uri(runs: Path) -> TrackingUri:
    """Return the URI of the file next to the run folders, whatever the environment says.

    Raises:
        SinkRejected: it is a link.
    """
    return resolve_tracking_uri(_default(runs), runs)


def _default(runs: Path) -> str:
    # The folder of the runs may come from somebody else, too, and MLflow changes the tables of any database.
    if (file := runs / DEFAULT_STORE).is_symlink():
        msg = (
            f"{file} is a link to {file.resolve()}, which is not followed, because a folder from an untrusted source "
            "could contain links to any path; set telemetry.mlflow.tracking_uri to the target, or remove the link"
        )
        raise SinkRejected(msg)
    return f"{_SQLITE}{DEFAULT_STORE}"


def _is_known(scheme: str) -> bool:
    """Return whether MLflow or one of its plugins has a store for this scheme."""
    return scheme in _KNOWN_SCHEMES or scheme in entry_points(group="mlflow.tracking_store").names


def _resolve_sqlite(source: str, uri: str, runs: Path) -> TrackingUri:
    path, _, query = uri.removeprefix(_SQLITE).partition("?")
    if not uri.startswith(_SQLITE) or path in {"", ":memory:"} or path.endswith("/"):
        _reject(source, uri, "no file name; expected for example sqlite:////absolute/path.db")
    try:
        file = (runs / Path(path).expanduser()).resolve()
    except (OSError, RuntimeError) as error:
        _reject(source, uri, f"cannot resolve the path: {error}; {_EXPECTED}")
    if "?" in str(file):
        _reject(source, f"{_SQLITE}{file}", f"the path of a URI cannot contain a question mark; {_EXPECTED}")
    shown = f"{_SQLITE}{file}"
    return TrackingUri(f"{shown}?{query}" if query else shown, shown, file)


def _credentials(uri: str) -> str:
    """Return the part between ``://`` and the host, including ``@``; empty if there is none."""
    scheme, _, rest = uri.partition("://")
    if scheme == "sqlite":
        return ""
    # In the URI of a database, the password may contain a slash.
    authority = rest.partition("/")[0] if f"{scheme}://" in _WEB else rest.partition("?")[0]
    user, at, _ = authority.rpartition("@")
    return f"{user}{at}"


def _reject(source: str, uri: str, reason: str) -> NoReturn:
    credentials = _credentials(uri)
    msg = f"{source} is {uri.replace(credentials, '') if credentials else uri!r}: {reason}"
    raise SinkRejected(msg)
