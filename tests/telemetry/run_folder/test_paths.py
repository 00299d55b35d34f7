"""Names and locations of the files in a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry import RunFolderError
from telemetry.run_folder.paths import local_path, sinks_folder


def test_a_linked_folder_of_the_sinks_is_an_error(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    assert sinks_folder(run) == run / "sinks"
    elsewhere.mkdir()
    (run / "sinks").symlink_to(elsewhere)
    with pytest.raises(RunFolderError, match=r"run/sinks is a link, and writing there .*; remove it"):
        sinks_folder(run)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_text_that_is_not_a_path_is_an_error(path: str) -> None:
    with pytest.raises(RunFolderError, match="is not a path of a run folder; choose a folder, such as runs/first"):
        local_path(path)
