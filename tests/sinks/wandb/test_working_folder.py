"""Files that wandb reads from the working directory cannot redirect the user's key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sinks.wandb.working_folder import check_working_folder
from support.cli_runs import telemetry
from support.recording_server import RecordingServer
from support.telemetry_fakes import HandMadeRun
from support.wandb_server import KEY
from telemetry.sink_api import SinkRejected


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory of the test, which is not that of the user's own settings."""
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write_settings(path: Path, **settings: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {value}" for name, value in settings.items()]
    path.write_text("\n".join(["[default]", *lines, ""]), encoding="utf-8")


def test_the_key_is_not_sent_to_a_server_named_in_the_run_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = HandMadeRun(folder, sinks={"wandb": {"mode": "online"}})
    run.points(1)
    run.close()
    with RecordingServer() as server:
        write_settings(folder / "wandb" / "settings", base_url=server.url)
        result = telemetry("sync", ".", "--linger", "0.1")
        assert server.requests == []
    assert result.exit_code == 1
    assert f"{folder}/wandb/settings sets base_url, and wandb would use it with your key" in result.stderr


@pytest.mark.parametrize("name", ["wandb", ".wandb"])
@pytest.mark.parametrize("setting", ["base_url", "api_key", "https_proxy", "identity_token_file"])
def test_settings_that_concern_the_key_are_refused(folder: Path, name: str, setting: str) -> None:
    write_settings(folder / name / "settings", **{setting: "http://elsewhere"})
    with pytest.raises(SinkRejected, match=rf"settings sets {setting}, .*start the command in another folder"):
        check_working_folder()


def test_settings_of_the_user_and_those_of_wandb_init_are_accepted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_working_folder()
    settings = folder / "wandb" / "settings"
    write_settings(settings, mode="offline", project="p", entity="e", base_url="https://api.wandb.ai")
    check_working_folder()
    write_settings(settings, base_url="http://lab")
    write_settings(tmp_path / "config" / "settings", base_url="http://lab")
    check_working_folder()
    write_settings(settings, base_url="http://elsewhere")
    # It has precedence over the file.
    monkeypatch.setenv("WANDB_BASE_URL", "http://lab")
    check_working_folder()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/etc/hostname")])
@pytest.mark.parametrize("name", ["wandb/settings", "config-defaults.yaml"])
def test_links_and_files_of_other_kinds_are_refused(folder: Path, name: str, make: Callable[[Path], object]) -> None:
    (folder / "wandb").mkdir()
    make(folder / name)
    with pytest.raises(SinkRejected, match=f"{name}, which wandb would read, is a link or not a regular file"):
        check_working_folder()
