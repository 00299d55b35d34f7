"""Delivery progress of a sink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from telemetry.run_folder.paths import delivered_sinks, progress_path
from telemetry.run_folder.sink_progress import Cursor, SinkProgress, read_progress, write_progress


def test_progress_is_kept_for_each_destination(tmp_path: Path) -> None:
    progress = SinkProgress(destination="here")
    progress.cursor.accepted = 7
    progress.destination = "there"
    assert progress.cursor.accepted == 0
    progress.cursor.durable = 3
    write_progress(tmp_path, "foo", progress)
    read = read_progress(tmp_path, "foo")
    assert read == progress
    assert read is not None
    assert read.cursors == {"here": Cursor(accepted=7), "there": Cursor(durable=3)}


def test_progress_of_a_version_without_media_can_be_read(tmp_path: Path) -> None:
    write_progress(tmp_path, "foo", SinkProgress(destination="here"))
    path = progress_path(tmp_path, "foo")
    path.write_text(path.read_text().replace('"media":null,', ""))
    assert "media" not in path.read_text()
    assert read_progress(tmp_path, "foo") == SinkProgress(destination="here")


def test_a_sink_without_progress_has_none(tmp_path: Path) -> None:
    assert read_progress(tmp_path, "foo") is None
    assert delivered_sinks(tmp_path) == []


def test_the_progress_of_a_sink_begins_at_zero(tmp_path: Path) -> None:
    zero = dict.fromkeys(("accepted", "durable", "rejected", "last_rejected"), 0)
    progress = SinkProgress()
    assert msgspec.structs.asdict(progress.cursor) == zero | {"closed": None}
    assert (progress.retries, progress.last_error_time, progress.updated) == (0, 0, 0)
    # Files of an earlier version may lack fields.
    progress_path(tmp_path, "foo").parent.mkdir()
    progress_path(tmp_path, "foo").write_bytes(b'{"cursors": {"": {}}}')
    assert read_progress(tmp_path, "foo") == progress


@pytest.mark.parametrize(
    ("reopening", "destination", "expected"),
    [(False, "", False), (True, "", False), (False, "here", False), (True, "here", True)],
)
def test_only_a_sink_that_is_opened_again_may_be_elsewhere(reopening: bool, destination: str, expected: bool) -> None:
    assert SinkProgress(reopening=reopening, destination=destination).is_elsewhere is expected
    assert not SinkProgress(destination=destination).is_elsewhere


def test_delivered_sinks_are_those_with_a_progress_file(tmp_path: Path) -> None:
    for name in ("wandb", "my.sink", "tensorboard"):
        write_progress(tmp_path, name, SinkProgress())
    folder = tmp_path / "sinks"
    for other in ("wandb.lease-3", "wandb.rejected.jsonl", ".wandb.json.77.0.tmp", ".hidden.json", "wandb.log"):
        (folder / other).touch()
    assert delivered_sinks(tmp_path) == ["my.sink", "tensorboard", "wandb"]


def test_writing_progress_to_a_missing_run_folder_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_progress(tmp_path / "gone", "foo", SinkProgress())
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("change", [{"accepted": -1}, {"accepted": "1"}, {"closed": "done"}, {"durable": 2**63}])
def test_an_invalid_cursor_is_read_as_no_progress(tmp_path: Path, change: dict[str, Any]) -> None:
    progress_path(tmp_path, "foo").parent.mkdir()
    progress_path(tmp_path, "foo").write_bytes(msgspec.json.encode({"cursors": {"x": change}}))
    assert read_progress(tmp_path, "foo") is None
