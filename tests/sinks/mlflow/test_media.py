"""Media as artifacts of an MLflow run, and additions to the description of a run."""

from __future__ import annotations

import csv
import io
import stat
from pathlib import Path
from typing import Any

import pytest

from sinks.mlflow.sink import MlflowSink
from support import media_records as media
from support.mlflow_kit import (
    IGNORE_NOLOAD,
    artifact_files,
    client_of,
    copy_store,
    find_runs,
    history,
    only_run,
    open_sink,
    open_sink_with,
    quiet,
    rejection,
    shared_server,
    shared_template,
    shown_units,
)
from telemetry import Metric
from telemetry.sink_api import Record, RunUpdate, SinkRejected, SinkUnavailable
from telemetry.testing.points import STARTED, resumed, run_record, scalars

pytestmark = IGNORE_NOLOAD

IMAGE = "images/val~parity~E+step+30+timestamp+1700000003003+3"
PATHS = {
    "texts/val/notes/000000010-1.md",
    "tables/val/errors/000000020-2.csv",
    f"{IMAGE}.png",
    f"{IMAGE}+compressed.png",
    "histograms/val/residuals/000000040-4.csv",
    "artifacts/best/weights/000000050-5/model.pt",
}


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return the folder of a run next to an empty store."""
    shared_template(request.config)
    copy_store(tmp_path)
    return tmp_path / "water"


def store(folder: Path) -> Any:
    return client_of(f"sqlite:///{folder.parent}/mlflow.db")


def write(folder: Path, *records: Record, **options: Any) -> None:
    sink, _ = open_sink(folder, experiment="of the test", **options)
    sink.sink_write(records)


def check_content(found: dict[str, bytes]) -> None:
    assert found.keys() == PATHS
    assert found["texts/val/notes/000000010-1.md"].decode() == media.TEXT
    assert found[f"{IMAGE}.png"] == found[f"{IMAGE}+compressed.png"] == media.png()
    assert found["artifacts/best/weights/000000050-5/model.pt"] == media.WEIGHTS
    assert list(csv.reader(io.StringIO(found["tables/val/errors/000000020-2.csv"].decode()))) == [
        media.COLUMNS,
        ["H", "0.1", "12"],
        ["a|b", "nan", "3"],
        ["<i>", "", "0"],
    ]
    assert found["histograms/val/residuals/000000040-4.csv"].decode() == (
        "from,to,count\n-1.0,0.0,3.0\n0.0,0.5,0.0\n0.5,2.0,7.0\n"
    )


class TestOnAnSqliteStore:
    def test_each_kind_is_an_artifact_with_its_content(self, folder: Path) -> None:
        write(folder, *media.one_of_each(folder))
        run = only_run(store(folder))
        check_content(artifact_files(store(folder), run.info.run_id))
        assert (run.data.tags["mlflow.loggedImages"], run.data.tags["telemetry.seq"]) == ("true", "5")

    def test_media_delivered_again_replace_their_files(self, folder: Path) -> None:
        records = [*media.one_of_each(folder), scalars(6)]

        def fail(*_: Any, **__: Any) -> None:
            raise ConnectionError("gone")

        sink, _ = open_sink_with(folder, log_batch=lambda client, *args, **kwargs: client.log_batch(*args, **kwargs))
        sink.sink_write(records[:2])
        killed, _ = open_sink_with(folder, log_batch=fail)
        with pytest.raises(SinkUnavailable, match="gone"):
            killed.sink_write(records[2:])
        again, found = open_sink(folder)
        assert found.last_seq == 2
        again.sink_write(records)
        client = store(folder)
        run = only_run(client)
        check_content(artifact_files(client, run.info.run_id))
        assert [step for step, _, _ in history(client, run.info.run_id)] == [60]

    def test_both_versions_of_a_superseded_medium_are_kept(self, folder: Path) -> None:
        first = media.text(folder, 1, content="first", step=10)
        again = media.text(folder, 10**9 + 2, content="again", step=10)
        write(folder, first)
        write(folder, resumed(10**9 + 1, 0), again)
        found = artifact_files(store(folder), only_run(store(folder)).info.run_id)
        assert found == {
            "texts/val/notes/000000010-1.md": b"first",
            "texts/val/notes/000000010-1000000002.md": b"again",
        }

    def test_records_next_to_a_medium_whose_content_has_changed_are_stored(self, folder: Path) -> None:
        records = [scalars(1), media.text(folder, 2), media.image(folder, 3), scalars(4)]
        (folder / "blobs" / records[2].blob.file).write_bytes(b"x")  # type: ignore[attr-defined] # it is an image
        sink, _ = open_sink(folder)
        with pytest.raises(SinkRejected, match="has changed"):
            sink.sink_write(records)
        sink.sink_write(records[:2])
        with pytest.raises(SinkRejected, match="has changed"):
            sink.sink_write(records[2:3])
        sink.sink_write(records[3:])
        client = store(folder)
        run = only_run(client)
        assert list(artifact_files(client, run.info.run_id)) == ["texts/val/notes/000000020-2.md"]
        assert [step for step, _, _ in history(client, run.info.run_id)] == [10, 40]

    def test_points_are_stored_if_the_artifacts_cannot_be(self, folder: Path) -> None:
        for error in (
            PermissionError(13, "Permission denied", "/artifacts"),
            rejection("too large"),
            ImportError("boto3"),
        ):
            sink, found = open_sink_with(folder, log_artifact=failing(error))
            seq = (found.last_seq or 0) + 1
            with pytest.raises(SinkRejected, match=rf"cannot store val/notes at iteration {10 * seq}: "):
                sink.sink_write([media.text(folder, seq)])
            sink.sink_write([scalars(seq + 1)])
        assert len(history(store(folder), only_run(store(folder)).info.run_id)) == 3

    def test_uploads_that_fail_for_now_are_retried(self, folder: Path) -> None:
        sink, _ = open_sink_with(folder, log_artifact=failing(OSError(28, "No space left on device")))
        with pytest.raises(SinkUnavailable, match="No space left"):
            sink.sink_write([media.text(folder, 1)])

    @pytest.mark.parametrize("name", ["../../../etc/x", "/etc/x", "a%2e%2e/b", "r²SCAN/Å: [0]/'q\"#?", "x" * 250])
    def test_any_name_and_file_name_become_paths_below_those_of_the_run(self, folder: Path, name: str) -> None:
        odd = media.artifact(folder, 5, name)
        kinds = [media.text(folder, 1, name), media.image(folder, 3, name), media.histogram(4, name), odd]
        write(folder, *kinds)
        found = artifact_files(store(folder), only_run(store(folder)).info.run_id)
        assert len(found) == len(kinds) + 1

    def test_files_are_as_accessible_as_the_run_folder(self, folder: Path) -> None:
        write(folder, *media.one_of_each(folder)[:2])
        for path in (folder.parent / "mlartifacts").rglob("*.*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_the_default_experiment_of_a_new_store_has_its_artifacts_next_to_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "runs" / "water"
        sink, _ = open_sink(folder, run_record("water", project=None))
        sink.sink_write([media.text(folder, 1)])
        assert [path.name for path in (tmp_path / "runs" / "mlartifacts" / "0").rglob("*.md")] == ["000000010-1.md"]


class TestOnAServer:
    def test_each_kind_is_uploaded_through_the_server(self, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        url = shared_server(request.config)
        run = run_record("water", started=STARTED + 77)
        sink, _ = open_sink(tmp_path / "water", run, tracking_uri=url)
        sink.sink_write(media.one_of_each(tmp_path / "water"))
        with quiet():
            client = client_of(url)
            (found,) = find_runs(client, run)
            assert found.info.artifact_uri.startswith("mlflow-artifacts:")
            check_content(artifact_files(client, found.info.run_id))


class TestAdditions:
    def test_metrics_and_parameters_that_appear_later_are_described(self, folder: Path) -> None:
        late = {"val/E": Metric(unit="eV", label="energy", better="lower"), "val/a?": Metric(unit="")}
        sink, _ = open_sink(folder, run_record("water", metrics={}, params={"seed": 7}))
        sink.sink_write([RunUpdate(seq=1, time=STARTED, metrics={"train/loss": Metric(unit="")}), scalars(2)])
        sink.sink_write([RunUpdate(seq=3, time=STARTED, metrics=late, params={"lr": 0.1, "seed": 8})])
        sink.sink_write([scalars(4, None, "val", E=3.0), scalars(5, None, "val", E=2.0, **{"a?": 1.0})])
        run = only_run(store(folder))
        assert run.data.params == {"seed": "7", "lr": "0.1"}
        assert run.data.tags["telemetry.param.seed"] == "8"
        assert run.data.tags["name.val/a_"] == "val/a?"
        assert shown_units(run) == {"train/loss": "1", "val/E": "eV", "val/a?": "1"}
        assert (run.data.metrics["best/val/E"], run.data.metrics["val/a_"]) == (2.0, 1.0)
        assert "val/E [eV] 2 at iteration 50" in run.data.tags["telemetry.best"]

    def test_a_description_edited_by_the_user_is_kept(self, folder: Path) -> None:
        sink, _ = open_sink(folder, run_record("water", metrics={}))
        client = store(folder)
        client.set_tag(only_run(client).info.run_id, "mlflow.note.content", "mine")
        sink.sink_write([RunUpdate(seq=1, time=STARTED, metrics={"train/loss": Metric()})])
        assert only_run(client).data.tags["mlflow.note.content"] == "mine"

    def test_later_metrics_whose_names_conflict_only_cost_their_points(self, folder: Path) -> None:
        late = {f"val/a{end}": Metric(unit="") for end in "?#"}
        for _ in range(2):
            # Opened again, the run has both from the beginning.
            sink, _ = open_sink(folder, run_record("water", metrics=late))
            sink.sink_write([RunUpdate(seq=1, time=STARTED, metrics=late), scalars(2, None, "val", **{"a?": 1.0})])
            with pytest.raises(SinkRejected, match="would both be named"):
                sink.sink_write([scalars(3, None, "val", **{"a#": 1.0})])
        assert only_run(store(folder)).data.metrics == {"val/a_": 1.0}


def failing(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_the_sink_declares_what_it_shows() -> None:
    assert set(MlflowSink.media) == {"text", "table", "image", "histogram", "artifact"}
