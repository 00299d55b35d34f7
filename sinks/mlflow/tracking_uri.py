"""Where runs go in MLflow: the tracking URI as it is used, and as it may be shown."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from sinks._paths import command
from telemetry.sink_api import SettingError, SinkRejected

_SQLITE = "sqlite:///"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
_WEB = ("http://", "https://")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_KNOWN = ("http", "https", "databricks", "databricks-uc", "uc", *_DATABASES)
_SECRET = re.compile(r"(?i)[?&][^=&]*(passw|token|secret|key)[^=&]*=")
_PLACES = "give the address of a server (http://…) or of a database (sqlite:////absolute/path.db)"


@dataclass(frozen=True)
class Place:
    """A tracking URI.

    Attributes:
        uri: as MLflow takes it, with the login that may be in it.
        shown: the same for people, without a login.
        file: the file of an SQLite store.
    """

    uri: str
    shown: str
    file: Path | None = None

    @property
    def needs_sqlalchemy(self) -> bool:
        """Whether it is a database, to which MLflow writes by itself."""
        return self.uri.startswith(_DATABASES)

    def without_login(self, text: str) -> str:
        """Give a text in which the URI may occur as it may be shown."""
        login = _login(self.uri)
        return text.replace(self.uri, self.shown).replace(login, "") if login else text

    def view(self, experiment_id: str, run_id: str) -> str:
        """Give the address of a run there, or the command that shows the store; empty if there is neither."""
        if self.shown.startswith(_WEB):
            return f"{self.shown}/#/experiments/{experiment_id}/runs/{run_id}"
        if "://" not in self.shown:
            return ""
        # What could not be shown came from the environment, and is there for whoever types the command.
        uri = shlex.quote(self.shown) if self.shown == self.uri else '"$MLFLOW_TRACKING_URI"'
        return f"{command('mlflow')} ui --backend-store-uri {uri}"


def check_option(uri: str) -> None:
    """Refuse a URI that cannot be meant, or must not be written to a journal, as options are.

    Raises:
        SettingError: it has a login in it, or is none.
    """
    if _login(uri) or _SECRET.search(uri):
        msg = (
            "telemetry.mlflow.tracking_uri has a login in it, and options are written to the journal; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment, or the whole address as "
            "MLFLOW_TRACKING_URI"
        )
        raise SettingError(msg)
    try:
        place(uri, Path("/"))
    except SinkRejected as error:
        raise SettingError(str(error)) from None


def place(option: str | None, runs: Path) -> Place:
    """Give where runs go: by the option, else by MLFLOW_TRACKING_URI, else to an SQLite file beside the runs.

    Args:
        option: the tracking URI that was asked for.
        runs: the folder that the run folders are in; a relative path of an SQLite file starts there, so that whoever
            delivers, from wherever, comes to the same one.

    Raises:
        SinkRejected: the URI is none that MLflow can write to.
    """
    name = "MLFLOW_TRACKING_URI" if option is None else "telemetry.mlflow.tracking_uri"
    uri = (os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db" if option is None else option).strip()
    scheme = _SCHEME.match(uri)
    if scheme is None and uri != "databricks":
        _refuse(name, uri, f"that is no address; {_PLACES}")
    if scheme is not None and scheme[0] == "file":
        _refuse(name, uri, f"MLflow does not keep runs in folders any more; {_PLACES}")
    if scheme is not None and not _is_known(scheme[0].partition("+")[0]):
        _refuse(name, uri, f"MLflow knows nothing that is called {scheme[0]!r}; {_PLACES}")
    if scheme is not None and scheme[0] == "sqlite":
        return _sqlite(name, uri, runs)
    uri = uri.rstrip("/")
    shown = uri.replace(_login(uri), "", 1)
    # A database's query may hold a password as well.
    return Place(uri, shown if shown.startswith(_WEB) else shown.partition("?")[0])


def _is_known(scheme: str) -> bool:
    """Say whether MLflow, or a plugin of it, takes addresses of this kind."""
    return scheme in _KNOWN or scheme in entry_points(group="mlflow.tracking_store").names


def _sqlite(name: str, uri: str, runs: Path) -> Place:
    path, _, query = uri.removeprefix(_SQLITE).partition("?")
    if not uri.startswith(_SQLITE) or path in {"", ":memory:"} or path.endswith("/"):
        _refuse(name, uri, "that names no file; give one, as in sqlite:////absolute/path.db")
    try:
        file = (runs / Path(path).expanduser()).resolve()
    except (OSError, RuntimeError) as error:
        _refuse(name, uri, f"there is no such path ({error}); {_PLACES}")
    if "?" in str(file):
        _refuse(name, f"{_SQLITE}{file}", f"no address can have a question mark in a path; {_PLACES}")
    shown = f"{_SQLITE}{file}"
    return Place(f"{shown}?{query}" if query else shown, shown, file)


def _login(uri: str) -> str:
    """Give what stands between :// and the host, with its @; empty if nothing does."""
    scheme, _, rest = uri.partition("://")
    if scheme == "sqlite":
        return ""
    # In the address of a database a password may hold a slash.
    host = rest.partition("/")[0] if f"{scheme}://" in _WEB else rest.partition("?")[0]
    user, at, _ = host.rpartition("@")
    return f"{user}{at}"


def _refuse(name: str, uri: str, why: str) -> NoReturn:
    login = _login(uri)
    msg = f"{name} is {uri.replace(login, '') if login else uri!r}: {why}"
    raise SinkRejected(msg)
