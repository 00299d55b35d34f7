"""Media in W&B's offline files and online, and additions to the description of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sinks.wandb.media import MediaRows, artifact_name, artifact_type, key_of
from sinks.wandb.timeouts import Timeouts
from support import media_records as media
from support.wandb_kit import (
    config,
    deliver,
    numbers_up_to,
    open_sink,
    records,
    rows,
    seqs,
    summary,
    transaction_logs,
    wait_for,
)
from support.wandb_server import WandbServer
from telemetry import Metric
from telemetry.sink_api import Artifact, Image, RunUpdate, SinkRejected
from telemetry.testing.points import METRICS, STARTED, run_record, scalars

# Runs that were never finished leave threads of wandb, which raise errors when wandb-core is gone.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


def under(row: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the values under a key, which wandb-core flattens."""
    return {name.removeprefix(f"{key}."): value for name, value in row.items() if name.startswith(f"{key}.")}


def stored(folder: Path, medium: dict[str, Any]) -> bytes:
    """Return the copy of a content in the folder of the offline files."""
    (path,) = (folder / "wandb").glob(f"offline-run-*/files/{medium['path']}")
    return path.read_bytes()


def test_each_kind_is_shown_once_with_its_content_and_iteration(tmp_path: Path) -> None:
    deliver(tmp_path, media.one_of_each(tmp_path))
    assert seqs(tmp_path) == numbers_up_to(5)
    text, table, image, histogram, artifact = rows(tmp_path)
    assert [row["trainer/iteration"] for row in rows(tmp_path)] == [10, 20, 30, 40, 50]
    shown = under(text, "val/notes")
    assert shown["_type"] == "html-file"
    assert "* `a|b` &lt;b&gt;bold&lt;/b&gt; &amp; é</pre>" in stored(tmp_path, shown).decode()
    shown = under(table, "val/errors")
    assert shown["_type"] == "table-file"
    assert json.loads(stored(tmp_path, shown), parse_constant=str) == {
        "columns": media.COLUMNS,
        "data": [["H", 0.1, 12], ["a|b", "NaN", 3], ["<i>", None, 0]],
    }
    shown = under(image, "val/parity/E")
    assert (shown["_type"], shown["width"], shown["height"]) == ("image-file", 3, 2)
    assert (shown["caption"], stored(tmp_path, shown)) == ("parity of *E*", media.png())
    shown = under(histogram, "val/residuals")
    assert shown == {"_type": "histogram", "bins": media.EDGES, "values": media.COUNTS}
    assert {key for key in artifact if not key.startswith("_")} == {
        "telemetry/seq",
        "telemetry/attempt",
        "trainer/iteration",
    }
    (found,) = [each for each in records(tmp_path, "artifact") if each["type"] == "model"]
    (file,) = found["manifest"]["contents"]
    assert (found["name"], sorted(found["aliases"])) == (
        f"best-weights-{transaction_logs(tmp_path)[0].stem.removeprefix('run-')}",
        ["iteration-50", "latest"],
    )
    assert (file["path"], Path(file["local_path"]).read_bytes()) == ("model.pt", media.WEIGHTS)


def test_media_lost_from_a_torn_file_are_delivered_again_once(tmp_path: Path) -> None:
    some = [scalars(1), *media.one_of_each(tmp_path, 2), scalars(7)]
    deliver(tmp_path, some)
    (log,) = transaction_logs(tmp_path)
    data = log.read_bytes()
    # In the middle of the row of the image.
    log.write_bytes(data[: data.rindex(b"image-file")])
    _, found = open_sink(tmp_path)
    assert found.last_seq == 3
    deliver(tmp_path, some)
    assert seqs(tmp_path) == numbers_up_to(7)
    assert under(rows(tmp_path)[3], "val/parity/E")["_type"] == "image-file"


def test_records_next_to_a_medium_whose_content_is_missing_are_delivered(tmp_path: Path) -> None:
    some = [scalars(1), media.image(tmp_path, 2), media.text(tmp_path, 3)]
    (tmp_path / "blobs" / some[1].blob.file).unlink()  # type: ignore[attr-defined] # it is an image
    sink, _ = open_sink(tmp_path)
    with pytest.raises(SinkRejected, match="is missing"):
        sink.sink_write(some)
    with pytest.raises(SinkRejected, match="is missing"):
        sink.sink_write(some[1:2])
    sink.sink_write(some[2:])
    sink.sink_close("finished", "")
    assert seqs(tmp_path) == [1, 3]


def test_metrics_and_parameters_that_appear_later_are_like_declared_ones(tmp_path: Path) -> None:
    late = {"val/E": Metric(unit="eV", label="energy", better="lower")}
    sink, _ = open_sink(tmp_path, run_record("water", metrics={}, params={"seed": 7}))
    sink.sink_write([RunUpdate(seq=1, time=STARTED, metrics={"train/loss": Metric(unit="")}), scalars(2)])
    sink.sink_write([RunUpdate(seq=3, time=STARTED, metrics=late, params={"lr": 0.1})])
    sink.sink_write([scalars(4, None, "val", E=3.0), scalars(5, None, "val", E=2.0)])
    sink.sink_close("finished", "")
    found = config(tmp_path)
    for update in records(tmp_path, "config"):
        found |= update["update"]
    assert (found["seed"], found["lr"], found["telemetry/units"]) == (7, 0.1, {"val/E": "eV"})
    axes = {each["name"]: each.get("step_metric") for each in records(tmp_path, "metric")}
    assert {axes[name] for name in ("train/loss", "val/E", "best/val/E")} == {"trainer/iteration"}
    assert summary(tmp_path)["best/val/E"] == 2


def test_media_are_delivered_online(tmp_path: Path, wandb_server: WandbServer) -> None:
    some = media.one_of_each(tmp_path)[:4]
    sink, _ = open_sink(tmp_path, timeouts=Timeouts(init=10.0, finish=20.0), mode="online")
    sink.sink_write([*some, scalars(5)])
    sink.sink_close("finished", "")
    (run,) = wandb_server.runs.values()
    assert [row["telemetry/seq"] for row in run.history] == numbers_up_to(5)
    assert run.history[3]["val/residuals"]["values"] == media.COUNTS


class OnlineRun:
    """An open run that notes the calls of ``log_artifact``."""

    id, offline = "water-12345678", False

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self._error = error

    def log_artifact(self, artifact: Any, *, aliases: list[str]) -> OnlineRun:
        if self._error is not None:
            raise self._error
        self.calls.append(f"{artifact.name} {aliases}")
        return self

    def wait(self) -> None:
        self.calls.append("wait")


def test_online_an_artifact_is_uploaded_before_its_row_is_logged(tmp_path: Path) -> None:
    run = OnlineRun()
    assert MediaRows(tmp_path, METRICS).row(run, media.artifact(tmp_path, 1)) == {}
    assert run.calls == ["best-weights-water-12345678 ['latest', 'iteration-10']", "wait"]


def test_an_artifact_that_wandb_refuses_is_rejected_alone(tmp_path: Path) -> None:
    run = OnlineRun(ValueError("Artifact already exists with type 'dataset'"))
    with pytest.raises(SinkRejected, match=r"best/weights at iteration 10: .*type 'dataset'"):
        MediaRows(tmp_path, METRICS).row(run, media.artifact(tmp_path, 1))


def test_images_and_names_that_wandb_cannot_store_hold_nothing_up(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    damaged = media.blob(tmp_path, media.png()[:40], ".png")
    image = Image(seq=2, time=STARTED, name="val/i", step=1, blob=damaged, width=3, height=2)
    sink, _ = open_sink(tmp_path)
    sink.sink_write([media.text(tmp_path, 1, "val/" + 240 * "é")])
    with pytest.raises(SinkRejected, match="wandb cannot show val/i at iteration 1"):
        sink.sink_write([image])
    sink.sink_write([media.text(tmp_path, 3, "val/a*b"), media.table(tmp_path, 4, "val/" + 240 * "x")])
    sink.sink_close("finished", "")
    assert seqs(tmp_path) == [1, 3, 4]


class TestNames:
    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("val/parity/E", "val/parity/E"),
            ("a/../..\\x//b", "a/__/.._x/_/b"),
            ("a/E*\0F", "a/E__F"),
            ("val/loss", "val/loss (histogram)"),
        ],
    )
    def test_keys_are_names_unless_these_are_unsafe_or_those_of_metrics(self, name: str, key: str) -> None:
        assert key_of(media.histogram(1, name), METRICS) == key

    def test_names_and_types_of_artifacts_are_valid(self, tmp_path: Path) -> None:
        wandb = pytest.importorskip("wandb")
        for name, kind in (("a/b: é", "job"), ("x" * 250, "wandb-x"), ("a", "t:y/pe" * 40), ("b", "run_table")):
            fields = media.fields(1, name) | {"blob": media.blob(tmp_path, b"x"), "file": "../x", "type": kind}
            record = Artifact(**fields)
            found = wandb.Artifact(artifact_name(record, "water-12345678"), artifact_type(record))
            assert found.name.endswith("-water-12345678")


def test_contents_are_durable_before_their_rows_are_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    sink, _ = open_sink(tmp_path)
    sink.sink_write(media.one_of_each(tmp_path)[:3])
    # wandb may write the beginning of the file, and it is synced, before the rows.
    wait_for(lambda: sink.sink_write([]) == 3)
    *before, last = [path.suffix for path in synced if "media" in path.parts or path.suffix == ".wandb"]
    assert sorted(suffix for suffix in before if suffix != ".wandb") == [".html", ".json", ".png"]
    assert last == ".wandb"
    sink.sink_close("finished", "")
