"""Where the MLflow sink writes: the tracking URI, its logins, and what is shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sinks.mlflow.tracking_uri import Place, place
from telemetry import SettingError
from telemetry.plugins.registry import select
from telemetry.sink_api import SinkRejected

RUNS = Path("/data/runs")


@pytest.fixture(autouse=True)
def _no_address(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_default_is_a_file_beside_the_runs():
    assert place(None, RUNS).uri == "sqlite:////data/runs/mlflow.db"


def test_the_environment_comes_before_the_default_and_the_option_before_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000/")
    assert place(None, RUNS).uri == "http://there:5000"
    assert place("https://here/mlflow/", RUNS).uri == "https://here/mlflow"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///all.db", "/data/runs/all.db"),
        ("sqlite:///../all.db", "/data/all.db"),
        ("sqlite:////srv/a@b#c%20/all.db", "/srv/a@b#c%20/all.db"),
        ("sqlite:////srv/all.db?timeout=60", "/srv/all.db"),
    ],
)
def test_a_relative_file_starts_at_the_folder_of_the_runs_whoever_delivers(uri, path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = place(uri, RUNS)
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
def test_a_login_from_the_environment_is_used_and_not_shown(uri, shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = place(None, RUNS)
    assert (found.uri, found.shown) == (uri, shown)
    text = found.without_login(f"cannot reach {uri}, nor {uri}/api")
    assert text == f"cannot reach {shown}, nor {shown}/api"
    assert "secret" not in found.view("1", "r")
    assert "me:" not in found.view("1", "r")


@pytest.mark.parametrize(
    "uri",
    ["https://me:secret@host", "https://me@host", "postgresql://me:se/cret@host/db", "mysql://host/db?password=secret"],
)
def test_a_login_in_the_option_is_refused_without_repeating_it(uri):
    with pytest.raises(SettingError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
        select(["mlflow"], {"mlflow": {"tracking_uri": uri}})
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "no address"),
        ("mlruns", "no address"),
        ("/data/mlruns", "no address"),
        ("file:///data/mlruns", "does not keep runs in folders"),
        ("nonsense://x", "knows nothing that is called 'nonsense'"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////data/", "names no file"),
        ("sqlite:///~nobody-of-that-name/x.db", "no such path"),
    ],
)
def test_what_mlflow_cannot_write_to_is_refused_when_the_sink_is_chosen(uri, why):
    with pytest.raises(SettingError, match=rf"telemetry\.mlflow\.tracking_uri is '{uri}': .*{why}.*sqlite:////"):
        select(["mlflow"], {"mlflow": {"tracking_uri": uri}})


def test_what_the_environment_names_is_refused_when_the_sink_is_opened(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file://me:secret@host/x")
    with pytest.raises(SinkRejected, match="MLFLOW_TRACKING_URI is 'file://host/x'"):
        place(None, RUNS)


def test_a_folder_with_a_question_mark_cannot_hold_the_default_file():
    with pytest.raises(SinkRejected, match="question mark"):
        place(None, Path("/data/why?/runs"))


@pytest.mark.parametrize(
    ("found", "view"),
    [
        (Place("http://host", "http://host"), "http://host/#/experiments/3/runs/abc"),
        (Place("databricks", "databricks"), ""),
        (place("sqlite:////a b/x.db", RUNS), "mlflow ui --backend-store-uri 'sqlite:////a b/x.db'"),
        (Place("postgresql://a:b@h/x", "postgresql://h/x"), 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'),
    ],
)
def test_people_are_told_how_to_see_the_run(found, view):
    assert found.view("3", "abc").endswith(view)
    assert bool(found.view("3", "abc")) == bool(view)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"experiment": " "}, r"telemetry\.mlflow\.experiment is ' '"),
        ({"run_name": ""}, r"telemetry\.mlflow\.run_name is ''"),
        ({"experiment": "x" * 501}, "up to 500 characters"),
        ({"tags": {"a[0]": "x"}}, r"telemetry\.mlflow\.tags has 'a\[0\]'"),
        ({"tags": {"telemetry.seq": "7"}}, "does not begin with telemetry"),
        ({"tags": {"a": "x" * 8001}}, r"telemetry\.mlflow\.tags\.a has 8001 characters"),
        ({"tags": {"a": 1}}, r"telemetry\.mlflow\.tags"),
        ({"uri": "x"}, "has no option 'uri'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_name(options, what):
    with pytest.raises(SettingError, match=what):
        select(["mlflow"], {"mlflow": options})
