"""The SQLite file, and the context of MLflow's calls: environment, logs, network, missing packages."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sinks.mlflow import client as mlflow_client
from sinks.mlflow import sink as mlflow_sink
from sinks.mlflow.confirmation import is_harmless
from sinks.mlflow.tracking_uri import TrackingUri
from support.mlflow_kit import (
    IGNORE_NOLOAD,
    client_of,
    copy_store,
    find_runs,
    open_sink,
    open_sink_with,
    shared_template,
)
from telemetry.sink_api import SinkRejected, SinkUnavailable
from telemetry.testing.points import run_record, scalars

pytestmark = IGNORE_NOLOAD
NOWHERE = TrackingUri("http://me:secret@nowhere", "http://nowhere")


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a run folder next to an SQLite store."""
    shared_template(request.config)
    copy_store(tmp_path / "runs")
    return tmp_path / "runs" / "water"


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file belong to another user; without the permission to do so, let the test be run by another user."""
    if os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: path.lstat().st_uid + 1)
    else:
        os.chown(path, 65534, -1, follow_symlinks=False)


OPEN = """
import sys, pathlib
from support.mlflow_kit import open_sink
from telemetry.testing.points import run_record, sample
def main(name):
    run = run_record(name, project="shared")
    sink, found = open_sink(pathlib.Path(sys.argv[1]) / name, run)
    sink.sink_write(sample(1, 500))
    sink.sink_close("finished", run.started + 1, "")
"""


class TestFile:
    def test_processes_started_at_the_same_time_share_one_new_store(self, tmp_path):
        runs = tmp_path / "runs"
        script = f"{OPEN}\nsys.stdin = None\nmain(sys.argv[2])"
        others = [start(script, runs, f"run-{number}") for number in range(4)]
        for other in others:
            output, _ = other.communicate(timeout=100)
            assert (other.returncode, output) == (0, "")
        client = client_of(f"sqlite:///{runs}/mlflow.db")
        found = find_runs(client)
        assert sorted(run.info.run_name for run in found) == [f"run-{number}" for number in range(4)]
        assert len({run.info.experiment_id for run in found}) == 1
        assert all(len(client.get_metric_history(run.info.run_id, "train/loss")) == 334 for run in found)
        # No incomplete store is left, and only the owner can read the store, which contains parameters.
        assert sorted(path.name for path in runs.iterdir() if path.is_file()) == ["mlflow.db"]
        assert stat.S_IMODE((runs / "mlflow.db").stat().st_mode) == 0o600

    @pytest.mark.parametrize("replaced", [False, True])
    def test_a_removed_file_is_detected_and_filled_again(self, folder, replaced):
        sink, _ = open_sink(folder)
        sink.sink_write([scalars(1)])
        (folder.parent / "mlflow.db").unlink()
        if replaced:
            copy_store(folder.parent)
        # A new file may get the inode number of the old one: then MLflow reports that the run is missing.
        with pytest.raises(SinkUnavailable, match=r"mlflow\.db has been removed or replaced|not found"):
            sink.sink_write([scalars(2)])
        copy_store(folder.parent)
        sink, found = open_sink(folder)
        assert found.last_seq == 0
        sink.sink_write([scalars(1), scalars(2)])
        (run,) = find_runs(client_of(f"sqlite:///{folder.parent}/mlflow.db"))
        assert run.data.metrics == {"train/loss": 0.5}

    def test_a_file_that_is_not_a_database_is_rejected_at_once(self, folder):
        (folder.parent / "mlflow.db").write_text("not a database" * 100)
        with pytest.raises(SinkRejected, match=r"mlflow\.db is not an SQLite database.*mlflow\.tracking_uri"):
            open_sink(folder)

    @pytest.mark.parametrize("name", ["mlflow.db", "mlflow.db-journal", "mlflow.db-wal"])
    def test_the_default_store_must_not_belong_to_another_user(self, folder, name, monkeypatch):
        """In a folder such as /tmp, somebody else may have created it, and could read the run."""
        path = folder.parent / name
        path.touch()
        give_away(path, monkeypatch)
        with pytest.raises(SinkRejected, match=rf"{name} belongs to another user.*mlflow\.tracking_uri=sqlite:///"):
            open_sink(folder)
        assert not is_harmless("sqlite:///mlflow.db", folder)

    def test_the_store_of_another_user_is_used_if_it_is_named(self, folder, monkeypatch):
        give_away(folder.parent / "mlflow.db", monkeypatch)
        _, found = open_sink(folder, tracking_uri=f"sqlite:///{folder.parent}/mlflow.db")
        assert found.last_seq == 0

    def test_a_file_that_cannot_be_opened_or_created_fails_at_once(self, folder, tmp_path):
        (folder.parent / "mlflow.db").unlink()
        (folder.parent / "mlflow.db").mkdir()
        with pytest.raises(SinkUnavailable, match=r"mlflow\.db cannot be opened"):
            open_sink(folder)
        (tmp_path / "file").touch()
        with pytest.raises(SinkUnavailable, match=r"NotADirectoryError|FileExistsError"):
            open_sink(folder, tracking_uri=f"sqlite:///{tmp_path}/file/mlflow.db")

    def test_a_store_of_another_version_is_retried_until_it_is_migrated(self, folder):
        with contextlib.closing(sqlite3.connect(folder.parent / "mlflow.db")) as store, store:
            (version,) = store.execute("SELECT version_num FROM alembic_version").fetchone()
            store.execute("UPDATE alembic_version SET version_num = 'other'")
        with pytest.raises(SinkUnavailable, match=r"out-of-date database schema.*mlflow db upgrade"):
            open_sink(folder)
        with contextlib.closing(sqlite3.connect(folder.parent / "mlflow.db")) as store, store:
            store.execute("UPDATE alembic_version SET version_num = ?", [version])
        assert open_sink(folder)[1].last_seq == 0

    def test_a_run_folder_reached_by_a_link_uses_the_same_store(self, folder, tmp_path):
        sink, found = open_sink(folder)
        sink.sink_write([scalars(1)])
        (tmp_path / "link").symlink_to(folder)
        _, again = open_sink(tmp_path / "link", run_record("water"))
        assert (again.destination, again.last_seq) == (found.destination, 1)

    def test_a_failed_creation_leaves_no_files(self, tmp_path):
        def fail(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        sink = mlflow_sink.MlflowSink(mlflow_sink.MlflowSink.Options())
        sink.create_store = fail
        with pytest.raises(SinkUnavailable, match="No space left"):
            sink.sink_open(run_record(), tmp_path / "runs" / "water")
        assert list((tmp_path / "runs").iterdir()) == []


class TestCallContext:
    def test_calls_use_no_network_print_nothing_and_restore_the_environment(self, tmp_path):
        script = f"""{OPEN}
import os, socket
before = dict(os.environ)
def forbid(*_, **__): raise SystemExit("the network was used")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = forbid
import threading
threading.excepthook = lambda args: os.abort()
main("water")
assert dict(os.environ) == before
assert threading.active_count() == 1, threading.enumerate()
"""
        environment = {k: v for k, v in os.environ.items() if k not in {"CI", "PYTEST_CURRENT_TEST"}}
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "runs")],
            env=environment | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    def test_variables_of_the_user_are_respected_except_for_retries(self, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
        with mlflow_client.mlflow_calls(NOWHERE):
            assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
            assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"

    def test_concurrent_calls_restore_the_environment(self):
        before = dict(os.environ)
        inside, leave = threading.Event(), threading.Event()

        def call() -> None:
            with mlflow_client.mlflow_calls(NOWHERE):
                inside.set()
                leave.wait(20)

        other = threading.Thread(target=call)
        with mlflow_client.mlflow_calls(NOWHERE):
            other.start()
            assert inside.wait(20)
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
        leave.set()
        other.join(20)
        assert dict(os.environ) == before

    def test_only_log_records_of_this_thread_are_suppressed(self, capsys):
        with mlflow_client.mlflow_calls(NOWHERE):
            log = logging.getLogger("mlflow.store")
            log.error("from this thread")
            other = threading.Thread(target=log.error, args=("from another thread",))
            other.start()
            other.join(20)
        log.error("afterwards")
        output = capsys.readouterr().err
        assert "from this thread" not in output
        assert "from another thread" in output
        assert "afterwards" in output

    def test_errors_do_not_contain_credentials(self):
        def fail() -> None:
            with mlflow_client.mlflow_calls(NOWHERE):
                msg = "cannot reach http://me:secret@nowhere/api"
                raise OSError(msg)

        with pytest.raises(SinkUnavailable) as caught:
            fail()
        assert str(caught.value) == "mlflow: OSError: cannot reach http://***@nowhere/api"
        assert caught.value.__suppress_context__


class TestMissingPackages:
    def test_a_failed_import_of_mlflow_is_not_retried(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlflow", None)
        with pytest.raises(SinkRejected, match="mlflow cannot be imported"):
            open_sink(folder)

    def test_a_database_without_sqlalchemy_is_rejected_with_the_fix(self, folder, monkeypatch):
        monkeypatch.setattr(mlflow_sink, "is_installed", lambda _: False)
        with pytest.raises(SinkRejected, match=r"mlflow-skinny.*pip install 'aimnet2mult\[mlflow\]'.*a server"):
            open_sink(folder)

    def test_credentials_rejected_during_a_run_are_retried_once_by_opening_again(self, folder):
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

        def deny(_: Any, *args: Any, **kwargs: Any) -> None:
            raise MlflowException("no", error_code=PERMISSION_DENIED)

        sink, _ = open_sink(folder)
        sink, _ = open_sink_with(folder, log_batch=deny)
        with pytest.raises(SinkUnavailable, match="no"):
            sink.sink_write([scalars(1)])
        with pytest.raises(SinkRejected, match="MLFLOW_TRACKING_TOKEN"):
            open_sink_with(folder, search_runs=deny)
