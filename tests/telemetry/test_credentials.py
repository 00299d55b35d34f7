"""Credentials of sinks reach the sinks, but no file of the run folder, and no command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.cli_runs import telemetry
from support.telemetry_fakes import METRICS, eventually, lines_of, offer_sinks, row_steps
from telemetry import Metric, SettingError, Settings, open_run
from telemetry.plugins.credentials import with_credentials
from telemetry.plugins.optional_imports import is_installed
from telemetry.plugins.registry import select
from telemetry.run_folder.sink_progress import Cursor, SinkProgress, read_progress, write_progress

SECRETS = ("hunter2", "s3cr3t", "t0k3n")
SERVER = "https://me:s3cr3t@host/?token=t0k3n&n=1"


@pytest.fixture(autouse=True)
def _sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    fakes = "support.telemetry_fakes"
    offer_sinks(site, talkative=f"{fakes}:TalkativeSink", file=f"{fakes}:FileSink", noisy=f"{fakes}:NoisySink")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    return tmp_path / "backend"


def check_no_secret_in(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert path.is_dir() or not [s for s in SECRETS if s in path.read_text(encoding="utf-8")], path


def record(run: Path, backend: Path) -> None:
    options = {"backend": str(backend), "password": "hunter2", "server": SERVER}
    settings = Settings(every=1, poll=0.02, sinks=("talkative",), options={"talkative": options})
    with open_run(run, metrics=METRICS, settings=settings) as bus:
        bus.publish("train", 1, {"loss": 0.5})
        eventually(lambda: row_steps(backend) == [1])


def test_credentials_are_not_in_the_run_folder_after_training_and_sync(
    tmp_path: Path, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    record(run, backend)
    login = f"hunter2 at {SERVER}"
    assert lines_of(backend / "logins") == [login, login]  # again after the failure
    check_no_secret_in(run)
    progress = read_progress(run, "talkative")
    assert progress is not None
    assert progress.last_error.endswith("SinkUnavailable: no answer to *** at https://***@host/?token=***&n=1")
    assert "no answer to ***" in (run / "sinks" / "talkative.log").read_text(encoding="utf-8")
    (backend / "rows").unlink()
    monkeypatch.setenv("TELEMETRY_TALKATIVE_PASSWORD", "hunter2")
    monkeypatch.setenv("TELEMETRY_TALKATIVE_SERVER", SERVER)
    result = telemetry("sync", run)
    assert result.exit_code == 0, result.output
    assert (row_steps(backend), lines_of(backend / "logins")) == ([1], [login] * 3)
    assert not [secret for secret in SECRETS if secret in result.output]
    check_no_secret_in(run)


def test_command_lines_of_delivery_processes_contain_no_credentials(tmp_path: Path, backend: Path) -> None:
    options = {"backend": str(backend), "password": "hunter2", "server": SERVER}
    settings = Settings(every=1, poll=0.02, sinks=("file",), options={"file": options})
    with open_run(tmp_path / "run", metrics=METRICS, settings=settings) as bus:
        bus.publish("train", 1, {"loss": 0.5})
        pid = eventually(lambda: lines_of(backend / "opened"))[0].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"telemetry.worker" in command
    assert not [secret for secret in SECRETS if secret.encode() in command]


def test_a_credential_that_was_not_set_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_FILE_PASSWORD", "hunter2")
    monkeypatch.setenv("TELEMETRY_FILE_LEVEL", "3")  # not a credential
    assert dict(select(["file"], {"file": {"backend": "b"}})[0].options) == {"backend": "b", "password": "hunter2"}
    given = {"backend": "b", "password": "x"}
    assert dict(select(["file"], {"file": given})[0].options) == given
    monkeypatch.delenv("TELEMETRY_FILE_PASSWORD")
    assert dict(select(["file"], {"file": {"backend": "b"}})[0].options) == {"backend": "b"}


def test_a_redacted_part_of_a_mapping_comes_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"headers": {"Authorization": "***", "n": "1"}}
    monkeypatch.setenv("TELEMETRY_MY_SINK_HEADERS", '{"Authorization": "Bearer x"}')
    assert with_credentials("my-sink", ["headers"], given) == {"headers": {"Authorization": "Bearer x"}}
    monkeypatch.setenv("TELEMETRY_MY_SINK_HEADERS", "Bearer x")
    with pytest.raises(SettingError, match="TELEMETRY_MY_SINK_HEADERS is not JSON, but the option 'headers'"):
        with_credentials("my-sink", ["headers"], given)


def test_errors_about_options_do_not_contain_credentials() -> None:
    with pytest.raises(SettingError, match=r"password.*got '\*\*\*'") as caught:
        select(["file"], {"file": {"backend": "b", "password": 12345678}})
    assert "12345678" not in str(caught.value)


def test_progress_at_a_destination_that_an_earlier_version_saved_with_a_login_is_kept(
    tmp_path: Path, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    record(run, backend)
    before = read_progress(run, "talkative")
    assert before is not None
    old = f"{backend}, hunter2 at {SERVER}"
    write_progress(run, "talkative", SinkProgress(destination=old, cursors={old: Cursor(accepted=7, rejected=3)}))
    monkeypatch.setenv("TELEMETRY_TALKATIVE_PASSWORD", "hunter2")
    monkeypatch.setenv("TELEMETRY_TALKATIVE_SERVER", SERVER)
    assert telemetry("sync", run).exit_code == 0
    after = read_progress(run, "talkative")
    assert after is not None
    assert list(after.cursors) == [before.destination]
    assert after.cursor.rejected == 3
    check_no_secret_in(run)


FORMS = {
    "url": "postgresql://me:pl4nted/x@db",
    "parameter": "https://host/x?n=1&sig=pl4nted",
    "header": "Authorization: Bearer pl4nted",
    "cookie": "Cookie: sid=pl4nted",
    "dsn": "host=h user=u password=pl4nted",
    "option": "train --password pl4nted",
    "github": "ghp_" + "pl4nted" * 4,
    "environment": "login failed for pl4nted-from-the-environment",
    "known": "login failed for pl4nted-option",
}


def test_credentials_in_texts_of_any_kind_reach_neither_the_run_folder_nor_the_output(
    tmp_path: Path, backend: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through parameters, names, labels, alerts, streams, the reason, and what a backend and its SDK print."""
    monkeypatch.setenv("LAB_PASSWORD", "pl4nted-from-the-environment")
    hostile = "\x1b]52;c;cm0=\x07\x1b[2J\u202e"
    backend.mkdir()
    (backend / "answer").write_text(f"403 {hostile} " + "; ".join(FORMS.values()), encoding="utf-8")
    run = tmp_path / "run"
    settings = Settings(
        every=1,
        poll=0.02,
        sinks=("noisy",),
        options={"noisy": {"backend": str(backend), "password": "pl4nted-option", "server": FORMS["url"]}},
    )
    params = {"forms": FORMS, "list": [*FORMS.values(), "--token", "pl4nted"], "pwd": "pl4nted"}
    with open_run(run, name=FORMS["known"], project=FORMS["dsn"], params=params, settings=settings) as bus:
        for number, (kind, text) in enumerate(FORMS.items(), start=1):
            bus.publish(f"s {text}", number, {kind: 0.5, f"m {text}": 1.0})
            bus.alert(f"{kind}: {text}", text, step=number)
        bus.alert("x" * 240 + FORMS["url"], "x" * 3990 + FORMS["url"], step=20)
        bus.publish("bad", 21, lambda: 1 / 0 if FORMS else {})
        log = run / "sinks" / "noisy.log"
        eventually(lambda: log.exists() and log.read_text().count("403") >= 4)
        receipt = bus.close("failed", reason="; ".join(FORMS.values()), timeout=0)
        shown = str(receipt)
    for path in run.rglob("*"):
        assert path.is_dir() or b"pl4nted" not in path.read_bytes(), path
    assert all(line.isprintable() for line in log.read_text().split("\n"))
    (backend / "up").touch()
    eventually(lambda: len(row_steps(backend)) >= 2 * len(FORMS) + 1)
    plots = [["show", run]] if is_installed("plotext") else []
    for command in (["status", run], ["list", tmp_path], ["export", run], *plots):
        result = telemetry(*command)
        assert result.exit_code == 0, result.output
        assert "***" in result.output or command[0] in {"list", "show"}
        shown += result.output
    captured = capfd.readouterr()
    assert "pl4nted" not in shown + captured.out + captured.err
    assert "pl4nted" not in "\n".join(lines_of(backend / "rows"))


def test_what_a_backend_answers_cannot_control_the_terminal(tmp_path: Path, backend: Path) -> None:
    backend.mkdir()
    answer = "403 \x1b]52;c;cm0=\x07\x1b[2J\r\u202e password=pl4nted " + "x" * 1_000_000
    (backend / "answer").write_text(answer, encoding="utf-8")
    run = tmp_path / "run"
    with open_run(run, metrics=METRICS, settings=Settings(every=1, sinks=())) as bus:
        bus.publish("train", 1, {"loss": 0.5})
    result = telemetry("sync", run, "--telemetry-sinks", "noisy", "-o", f"noisy.backend={backend}", "--linger", "0.1")
    assert result.exit_code == 1
    for text in (result.output, telemetry("status", run).output, telemetry("list", tmp_path).output):
        assert all(line.isprintable() for line in text.split("\n"))
        assert "pl4nted" not in text
        assert len(text) < 20_000
    assert "403" in result.output


def test_declared_metrics_cannot_have_credentials_in_their_names(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"'train/https://\*\*\*@host' contains a credential"):
        open_run(tmp_path / "run", metrics={"train/https://me:hunter2@host": Metric()})
