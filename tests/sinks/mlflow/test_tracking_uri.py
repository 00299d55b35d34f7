"""The tracking URI of the MLflow sink: its sources, validation, credentials and display."""

from __future__ import annotations

from pathlib import Path

import pytest

from sinks.mlflow.tracking_uri import TrackingUri, resolve_tracking_uri
from telemetry import SettingError
from telemetry.plugins.registry import select
from telemetry.sink_api import SinkRejected

PAGE = "#/experiments/3/runs/abc/model-metrics?workflowType=machine_learning"
RUNS = Path("/data/runs")


@pytest.fixture(autouse=True)
def _no_uri_in_the_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_default_is_a_file_next_to_the_run_folders():
    assert resolve_tracking_uri(None, RUNS).uri == "sqlite:////data/runs/mlflow.db"


def test_the_environment_overrides_the_default_and_the_option_overrides_both(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000/")
    assert resolve_tracking_uri(None, RUNS).uri == "http://there:5000"
    assert resolve_tracking_uri("https://here/mlflow/", RUNS).uri == "https://here/mlflow"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///all.db", "/data/runs/all.db"),
        ("sqlite:///../all.db", "/data/all.db"),
        ("sqlite:////srv/a@b#c%20/all.db", "/srv/a@b#c%20/all.db"),
        ("sqlite:////srv/all.db?timeout=60", "/srv/all.db"),
    ],
)
def test_a_relative_file_starts_at_the_parent_of_the_run_folder(uri, path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = resolve_tracking_uri(uri, RUNS)
    assert (found.file, found.shown) == (Path(path), f"sqlite:///{path}")
    assert found.uri == found.shown + ("?timeout=60" if "timeout" in uri else "")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:p@ss@host:1/x", "https://host:1/x"),
        ("http://host/a@b", "http://host/a@b"),
        ("postgresql://me:pa/ss@host/db?password=secret", "postgresql://host/db"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_credentials_from_the_environment_are_used_but_not_shown(uri, shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = resolve_tracking_uri(None, RUNS)
    assert (found.uri, found.shown) == (uri, shown)
    text = found.redact(f"cannot reach {uri}, nor {uri}/api")
    assert text == f"cannot reach {shown}, nor {shown}/api"
    assert "secret" not in found.view("1", "r")
    assert "me:" not in found.view("1", "r")


@pytest.mark.parametrize(
    "uri",
    ["https://me:secret@host", "https://me@host", "postgresql://me:se/cret@host/db", "mysql://host/db?password=secret"],
)
def test_credentials_in_the_option_are_rejected_and_not_repeated(uri):
    with pytest.raises(SettingError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
        select(["mlflow"], {"mlflow": {"tracking_uri": uri}})
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "not a URI"),
        ("mlruns", "not a URI"),
        ("/data/mlruns", "not a URI"),
        ("file:///data/mlruns", "no longer stores runs in folders"),
        ("nonsense://x", "no store for the scheme 'nonsense'"),
        ("sqlite://", "no file name"),
        ("sqlite:///:memory:", "no file name"),
        ("sqlite:////data/", "no file name"),
        ("sqlite:///~no-such-user/x.db", "cannot resolve the path: "),
    ],
)
def test_an_invalid_option_is_rejected_when_the_sink_is_selected(uri, reason):
    with pytest.raises(SettingError, match=rf"telemetry\.mlflow\.tracking_uri is '{uri}': .*{reason}.*sqlite:////"):
        select(["mlflow"], {"mlflow": {"tracking_uri": uri}})


def test_an_invalid_environment_variable_is_rejected_when_the_sink_is_opened(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file://me:secret@host/x")
    with pytest.raises(SinkRejected, match="MLFLOW_TRACKING_URI is 'file://host/x'"):
        resolve_tracking_uri(None, RUNS)


def test_a_folder_with_a_question_mark_cannot_hold_the_default_file():
    with pytest.raises(SinkRejected, match="question mark"):
        resolve_tracking_uri(None, Path("/data/why?/runs"))


@pytest.mark.parametrize(
    ("found", "view"),
    [
        (TrackingUri("http://host", "http://host"), f"http://host/{PAGE}"),
        (TrackingUri("databricks", "databricks"), ""),
        (
            resolve_tracking_uri("sqlite:////a b/x.db", RUNS),
            f"mlflow ui --backend-store-uri 'sqlite:////a b/x.db'\nhttp://127.0.0.1:5000/{PAGE}",
        ),
        (
            TrackingUri("postgresql://a:b@h/x", "postgresql://h/x"),
            f'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"\nhttp://127.0.0.1:5000/{PAGE}',
        ),
    ],
)
def test_the_view_leads_to_the_curves(found, view):
    assert found.view("3", "abc").endswith(view)
    assert bool(found.view("3", "abc")) == bool(view)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": " "}, r"telemetry\.mlflow\.experiment is ' '"),
        ({"run_name": ""}, r"telemetry\.mlflow\.run_name is ''"),
        ({"experiment": "x" * 501}, "1 to 500 characters"),
        ({"tags": {"a[0]": "x"}}, r"telemetry\.mlflow\.tags has 'a\[0\]'"),
        ({"tags": {"telemetry.seq": "7"}}, "does not begin with telemetry"),
        ({"tags": {"a": "x" * 8001}}, r"telemetry\.mlflow\.tags\.a has 8001 characters"),
        ({"tags": {"a": 1}}, r"telemetry\.mlflow\.tags"),
        ({"uri": "x"}, "has no option 'uri'"),
    ],
)
def test_invalid_options_are_rejected_by_name(options, message):
    with pytest.raises(SettingError, match=message):
        select(["mlflow"], {"mlflow": options})
