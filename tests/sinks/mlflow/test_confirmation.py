"""No credential of the user reaches a server that only a run folder names."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from sinks.mlflow.confirmation import is_harmless
from sinks.mlflow.tracking_uri import resolve_tracking_uri
from support.cli_runs import telemetry
from support.mlflow_kit import client_of, shared_server
from support.recording_server import RecordingServer
from support.telemetry_fakes import HandMadeRun
from telemetry.sink_api import SinkRejected

VARIABLES = ("URI", "USERNAME", "PASSWORD", "TOKEN", "AUTH", "AWS_SIGV4", "CLIENT_CERT_PATH")
ELSEWHERE = "http://elsewhere.example.org"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home folder of a user without credentials."""
    for name in VARIABLES:
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def save_credentials(home: Path) -> None:
    (home / ".mlflow").mkdir()
    text = "[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = hunter2\n"
    (home / ".mlflow" / "credentials").write_text(text, encoding="utf-8")


def received(folder: Path, **options: str) -> Path:
    """Return the folder of a finished run with the given options of the sink."""
    run = HandMadeRun(folder, sinks={"mlflow": options})
    run.points(1, 2)
    run.close()
    return folder


@pytest.mark.parametrize("source", ["login", "token", "file"])
@pytest.mark.parametrize("selection", [(), ("--telemetry-sinks", "mlflow")])
def test_sync_sends_nothing_before_the_server_is_confirmed(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, source: str, selection: tuple[str, ...]
) -> None:
    if source == "file":
        save_credentials(home)
    if source == "token":
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0k3n")
    if source == "login":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with RecordingServer() as server:
        run = received(tmp_path / "runs" / "run", tracking_uri=server.url)
        result = telemetry("sync", run, *selection)
        assert server.requests == []
        assert result.exit_code == 2
        assert result.stderr == (
            f"error: the destination mlflow.tracking_uri={server.url} comes from the run folder; if you trust it, add "
            f"-o mlflow.tracking_uri={server.url}\n"
        )
        assert not (run / "sinks" / "mlflow.json").exists()
        # Confirmed, the credentials are sent, which shows that the server would have recorded them.
        telemetry("sync", run, "-o", f"mlflow.tracking_uri={server.url}", "--linger", "0.1")
        assert server.credentials


def test_without_credentials_in_reach_nothing_needs_to_be_confirmed(tmp_path: Path) -> None:
    with RecordingServer() as server:
        run = received(tmp_path / "runs" / "run", tracking_uri=server.url)
        assert telemetry("sync", run, "--linger", "0.1").exit_code == 1
        assert server.requests
        assert server.credentials == []


def test_the_suggested_command_confirms_the_server(tmp_path: Path, home: Path) -> None:
    with RecordingServer() as server:
        run = received(tmp_path / "my runs" / "-run", tracking_uri=server.url)
        save_credentials(home)
        lines = telemetry("status", run).output.splitlines()
        assert lines[-1] == (
            f"deliver the rest, if you trust the destination: telemetry sync '{run}' --telemetry-sinks mlflow "
            f"-o mlflow.tracking_uri={server.url}"
        )
        arguments = shlex.split(lines[-1].partition(": ")[2])
        assert telemetry(*arguments[1:], "--linger", "0.1").exit_code == 1
        assert server.requests


def test_the_variable_of_the_option_confirms_it_too(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_credentials(home)
    with RecordingServer() as server:
        run = received(tmp_path / "runs" / "run", tracking_uri=server.url)
        monkeypatch.setenv("TELEMETRY_MLFLOW_TRACKING_URI", server.url)
        assert telemetry("sync", run, "--linger", "0.1").exit_code == 1
        assert server.credentials


@pytest.mark.parametrize(
    "uri", [ELSEWHERE, "postgresql://elsewhere/db", "databricks", "sqlite:////etc/store.db", "sqlite:///../x.db"]
)
def test_with_credentials_other_stores_need_a_confirmation(tmp_path: Path, home: Path, uri: str) -> None:
    save_credentials(home)
    run = tmp_path / "runs" / "run"
    assert not is_harmless(uri, run)


def test_stores_of_the_user_and_those_in_the_run_folder_need_none(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_credentials(home)
    run = tmp_path / "runs" / "run"
    assert is_harmless("sqlite:///mlflow.db", run)
    assert is_harmless(f"sqlite:///{tmp_path}/runs/mlflow.db", run)
    assert is_harmless("sqlite:///run/store.db", run)
    for own in (ELSEWHERE, f"{ELSEWHERE}/", "http://me:pw@elsewhere.example.org"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
        assert is_harmless(ELSEWHERE, run)
    assert not is_harmless(f"{ELSEWHERE}:8080", run)
    assert not is_harmless("http://elsewhere.example.org.evil.org", run)


def test_a_store_behind_a_link_in_the_run_folder_needs_a_confirmation(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    (run / "store").symlink_to(tmp_path)
    assert not is_harmless("sqlite:///run/store/x.db", run)


def test_a_link_in_place_of_the_default_store_is_not_followed(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "mlflow.db").symlink_to(tmp_path / "other.db")
    with pytest.raises(SinkRejected, match=r"mlflow\.db is a link to .*other\.db.*telemetry\.mlflow\.tracking_uri"):
        resolve_tracking_uri(None, runs)
    assert not is_harmless("sqlite:///mlflow.db", runs / "run")


def test_a_real_server_of_the_user_receives_the_run(
    request: pytest.FixtureRequest, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_server = shared_server(request.config)
    save_credentials(home)
    run = received(tmp_path / "runs" / "run", tracking_uri=mlflow_server, experiment=tmp_path.name)
    assert telemetry("sync", run).exit_code == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    assert telemetry("sync", run).exit_code == 0
    client = client_of(mlflow_server)
    (found,) = client.search_runs([client.get_experiment_by_name(tmp_path.name).experiment_id])
    assert found.data.metrics["train/loss"] == 2.0
