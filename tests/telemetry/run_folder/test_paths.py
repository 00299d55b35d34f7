"""Names and locations of the files in a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry import RunFolderError
from telemetry.run_folder.paths import (
    heartbeat_path,
    local_path,
    log_path,
    progress_path,
    rejected_path,
    sinks_folder,
)


def test_a_linked_folder_of_the_sinks_is_an_error(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    assert sinks_folder(run) == run / "sinks"
    elsewhere.mkdir()
    (run / "sinks").symlink_to(elsewhere)
    with pytest.raises(RunFolderError, match=r"run/sinks is a link, and writing there .*; remove it"):
        sinks_folder(run)


def test_the_files_have_their_documented_names() -> None:
    run = Path("/runs/water")
    assert heartbeat_path(run) == Path("/runs/water/alive.json")
    assert progress_path(run, "mlflow") == Path("/runs/water/sinks/mlflow.json")
    assert log_path(run, "mlflow") == Path("/runs/water/sinks/mlflow.log")
    assert rejected_path(run, "mlflow") == Path("/runs/water/sinks/mlflow.rejected.jsonl")


def test_a_given_path_may_be_text_and_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/runs/water") == Path("/home/me/runs/water")
    assert local_path(Path("runs/a:b/water")) == Path("runs/a:b/water")
    with pytest.raises(RunFolderError, match="the run folder is '~nobody-here/runs': there is no such home folder"):
        local_path("~nobody-here/runs")


@pytest.mark.parametrize("url", ["s3://bucket/run", "file:/runs/water", Path("memory://run")])
def test_a_url_is_no_run_folder(url: str | Path) -> None:
    with pytest.raises(RunFolderError, match=", a URL; choose a local path"):
        local_path(url)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_text_that_is_not_a_path_is_an_error(path: str) -> None:
    with pytest.raises(RunFolderError, match=r"the run folder is .*, which is not a path; choose a folder"):
        local_path(path)
