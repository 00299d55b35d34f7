"""The options of the W&B sink, its destinations, and privacy."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sinks.wandb.sink import WandbSink
from support.wandb_kit import client_pids, deliver, open_sink, records, rows, seqs, transaction_logs, wandb_cli
from support.wandb_server import KEY, Fault, WandbServer
from telemetry import SettingError
from telemetry.plugins.registry import select
from telemetry.sink_api import Opened, SinkRejected, SinkUnavailable
from telemetry.testing.points import run_record, sample, scalars


class TestOptions:
    def test_unknown_and_mistyped_options_are_rejected_by_name(self) -> None:
        with pytest.raises(
            SettingError, match=r"'run_name'.*available: project, entity, name, group, job_type, tags, notes"
        ):
            select(["wandb"], {"wandb": {"run_name": "x"}})
        with pytest.raises(SettingError, match=r"telemetry\.wandb\.tags"):
            select(["wandb"], {"wandb": {"tags": "a"}})
        with pytest.raises(SettingError, match=r"telemetry\.wandb\.mode"):
            select(["wandb"], {"wandb": {"mode": "disabled"}})

    @pytest.mark.parametrize("name", ["project", "entity", "name", "group", "job_type"])
    @pytest.mark.parametrize("value", ["", " \t", "a\0b"])
    def test_an_empty_option_is_rejected_when_the_sink_is_selected(self, name: str, value: str) -> None:
        with pytest.raises(SettingError, match=rf"telemetry\.wandb\.{name} is .*leave it out"):
            select(["wandb"], {"wandb": {name: value}})

    @pytest.mark.parametrize("value", ["", " \t", "a\0b"])
    def test_an_empty_folder_is_rejected_when_the_sink_is_selected(self, value: str) -> None:
        with pytest.raises(SettingError, match=r"telemetry\.wandb\.dir is .*, which is not a path; choose a folder"):
            select(["wandb"], {"wandb": {"dir": value}})

    @pytest.mark.parametrize("value", ["memory:/w", "file:///scratch/w"])
    def test_a_url_as_the_folder_is_rejected_when_the_sink_is_selected(self, value: str) -> None:
        with pytest.raises(SettingError, match=rf"telemetry\.wandb\.dir is '{value}', a URL; choose a local path"):
            select(["wandb"], {"wandb": {"dir": value}})


class TestMode:
    @pytest.fixture(autouse=True)
    def _no_key(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.chdir(tmp_path)

    def mode(self, folder: Path, option: str | None = None) -> str:
        _, found = open_sink(folder / "run", mode=option)
        return "offline" if str(folder) in found.destination else "online"

    def test_without_a_key_it_is_offline(self, tmp_path: Path) -> None:
        assert self.mode(tmp_path) == "offline"

    def test_with_a_key_in_the_environment_it_is_online(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        assert self.mode(tmp_path) == "online"

    def test_with_a_key_in_netrc_it_is_online_and_works(
        self, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("WANDB_API_KEY")
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine another\n  login user\n  password {KEY[::-1]}\n", encoding="utf-8")
        assert self.mode(tmp_path) == "offline"
        server = wandb_server.url.removeprefix("http://")
        netrc.write_text(f"machine {server}\n  login user\n  password {KEY}\n", encoding="utf-8")
        netrc.chmod(0o600)
        assert self.mode(tmp_path) == "online"
        deliver(tmp_path / "run", [scalars(1)], mode=None)
        (run,) = wandb_server.runs.values()
        assert len(run.history) == 1

    @pytest.mark.parametrize(
        ("variable", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("online", "online")]
    )
    def test_wandb_mode_takes_precedence_over_a_key(
        self, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, variable: str, mode: str
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", variable)
        assert self.mode(tmp_path) == mode
        assert self.mode(tmp_path, "offline") == "offline"
        assert self.mode(tmp_path, "online") == "online"

    def test_the_mode_set_by_the_command_wandb_offline_is_used(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        (tmp_path / "wandb").mkdir()
        wandb_cli(tmp_path, "offline")
        assert self.mode(tmp_path) == "offline"

    def test_disabled_wandb_is_rejected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "disabled")
        with pytest.raises(SinkRejected, match=r"disabled by WANDB_MODE.*leave the sink out"):
            self.mode(tmp_path)
        assert self.mode(tmp_path, "offline") == "offline"

    def test_online_mode_without_a_key_is_rejected_with_the_fix(self, tmp_path: Path) -> None:
        with pytest.raises(SinkRejected, match=r"no key for https://\S+: set WANDB_API_KEY.*mode=offline"):
            self.mode(tmp_path, "online")


def expanded(pattern: str) -> list[str]:
    """Return the words that a shell expands a pattern to."""
    done = subprocess.run(f"printf '%s\\n' {pattern}", shell=True, check=True, capture_output=True, text=True)  # noqa: S602 - the shell is under test
    return done.stdout.splitlines()


class TestDestination:
    def test_files_are_in_the_run_folder_and_the_view_is_a_command_that_syncs_them(self, tmp_path: Path) -> None:
        folder = tmp_path / "it's a run"
        sink, found = open_sink(folder)
        sink.sink_write([scalars(1)])
        sink.sink_close("finished", "")
        run_id = transaction_logs(folder)[0].stem.removeprefix("run-")
        assert found.destination == f"{folder}/wandb, run {run_id}"
        command, _, pattern = found.view.partition(" sync ")
        assert command.endswith("wandb")
        assert expanded(pattern) == [str(path.parent) for path in transaction_logs(folder)]

    def test_the_view_matches_files_created_within_one_second(self, tmp_path: Path) -> None:
        found = Opened("")
        for last in (1, 2, 3):
            deliver(tmp_path, sample(1, last), "finished" if last % 2 else "failed")
            found = open_sink(tmp_path)[1]
        assert expanded(found.view.partition(" sync ")[2]) == sorted(
            str(path.parent) for path in transaction_logs(tmp_path)
        )
        assert seqs(tmp_path) == [1, 2, 3]

    @pytest.mark.parametrize("absolute", [True, False])
    def test_the_option_dir_is_relative_to_the_run_folder(self, tmp_path: Path, absolute: bool) -> None:
        elsewhere = tmp_path / "elsewhere"
        deliver(tmp_path / "run", [scalars(1)], dir=str(elsewhere) if absolute else "../elsewhere")
        assert seqs(elsewhere) == [1]
        assert not list((tmp_path / "run").iterdir())

    def test_runs_in_the_same_folder_are_separate(self, tmp_path: Path) -> None:
        for name, last in (("a", 3), ("b", 2), ("a", 5)):
            deliver(tmp_path / name, sample(1, last), dir="..")
        assert sorted(seqs(tmp_path)) == [1, 1, 2, 2, 3, 4, 5]

    def test_an_earlier_run_of_the_same_name_is_a_different_run(self, tmp_path: Path) -> None:
        deliver(tmp_path, [scalars(1)])
        _, found = open_sink(tmp_path, run_record(tmp_path.name, started=5))
        assert found.last_seq is None

    def test_the_online_destination_and_view_contain_server_entity_project_and_run(
        self, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        _, found = open_sink(tmp_path / "run", mode="online", project="p")
        assert found.destination.startswith(f"{wandb_server.url}, chemists/p, run run-")
        assert found.view.startswith(f"{wandb_server.url}/chemists/p/runs/run-")
        _, found = open_sink(tmp_path / "run", mode="online", project="water ice")
        assert found.view.startswith(f"{wandb_server.url}/chemists/water%20ice/runs/run-")

    @pytest.mark.parametrize("folder", [0o700, 0o750])
    def test_the_folder_is_as_accessible_as_the_run_folder(self, tmp_path: Path, folder: int) -> None:
        tmp_path.chmod(folder)
        deliver(tmp_path, [scalars(1)])
        assert stat.S_IMODE((tmp_path / "wandb").stat().st_mode) == folder

    def test_a_link_is_rejected_as_the_default_folder_but_accepted_in_a_chosen_one(self, tmp_path: Path) -> None:
        run, outside = tmp_path / "run", tmp_path / "outside"
        run.mkdir()
        outside.mkdir()
        (run / "wandb").symlink_to(outside)
        with pytest.raises(SinkRejected, match=r"wandb is a link to .*Set telemetry\.wandb\.dir"):
            open_sink(run, mode="offline")
        assert not list(outside.iterdir())
        _, found = open_sink(run, mode="offline", dir=".")
        assert found.destination.startswith(str(run / "wandb"))

    def test_links_in_the_folder_are_neither_followed_nor_changed(self, tmp_path: Path) -> None:
        deliver(tmp_path / "real", [scalars(1)])
        (log,) = transaction_logs(tmp_path / "real")
        log.chmod(0o600)
        with log.open("ab") as file:
            file.write(b"torn")
        before = log.read_bytes()
        run = tmp_path / "run"
        (run / "wandb").mkdir(parents=True)
        (run / "wandb" / log.parent.name).symlink_to(log.parent)
        _, found = open_sink(run, run_record("real"), mode="offline")
        assert found.last_seq is None
        assert log.read_bytes() == before
        assert stat.S_IMODE(log.stat().st_mode) == 0o600

    def test_only_the_wandb_folder_and_the_row_numbers_are_left_in_the_run_folder(self, tmp_path: Path) -> None:
        deliver(tmp_path / "run", sample(1, 3))
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert {name for name in names if not name.endswith(".rows")} == {"wandb"}
        assert len(names) == 2
        assert {path.name for path in tmp_path.iterdir()} == {"run"}


class Listener:
    """A server that counts connections and closes them."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


class TestPrivacy:
    @pytest.fixture
    def listener(self) -> Iterator[Listener]:
        listener = Listener()
        yield listener
        listener.close()

    def test_offline_no_connection_is_made(
        self, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "WANDB_BASE_URL"):
            monkeypatch.setenv(name, listener.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        deliver(tmp_path, sample(1, 20), "failed")
        assert listener.connections == 0
        assert seqs(tmp_path) == list(range(1, 21))

    @pytest.mark.parametrize("mode", ["online", "offline"])
    def test_the_key_appears_in_no_file_and_no_message(
        self, tmp_path: Path, wandb_server: WandbServer, mode: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink, found = open_sink(tmp_path, mode=mode)
        sink.sink_write(sample(1, 20))
        sink.sink_close("finished", "")
        texts = [found.destination, found.view, caplog.text]
        for fault in (Fault(401), Fault(403), Fault(500), Fault("cut")) if mode == "online" else ():
            wandb_server.fail(fault)
            with pytest.raises((SinkRejected, SinkUnavailable)) as caught:
                open_sink(tmp_path, mode=mode)
            texts.append(f"{caught.value} {caught.value.__cause__}")
        assert KEY not in "".join(texts)
        files = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
        assert files == []

    def test_an_inherited_client_of_the_trainer_is_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/tmp/there-is-no-such-socket")
        deliver(tmp_path, [scalars(1)])
        assert len(rows(tmp_path)) == 1
        assert len(client_pids()) == 1

    def test_a_run_of_the_user_in_the_same_process_continues(self, tmp_path: Path) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        own = wandb.init(mode="offline", dir=str(tmp_path / "own"), project="p", id="own", settings=settings)
        own.log({"a": 1})
        deliver(tmp_path / "run", sample(1, 3))
        own.log({"a": 2})
        own.finish()
        wandb.teardown()
        assert [row["a"] for row in rows(tmp_path / "own")] == [1, 2]
        assert seqs(tmp_path / "run") == [1, 2, 3]
        assert records(tmp_path / "own", "exit")


@pytest.mark.parametrize("project", ["a/b", "50%", "water:ice"])
def test_an_invalid_project_is_rejected_when_the_sink_is_selected(project: str) -> None:
    with pytest.raises(
        SettingError, match=rf"telemetry\.wandb\.project is '{project}'; W&B does not allow [/%:] in it"
    ):
        select(["wandb"], {"wandb": {"project": project}})


def test_files_are_written_to_the_folder_wandb_even_if_a_folder_dot_wandb_exists(tmp_path: Path) -> None:
    (tmp_path / ".wandb").mkdir()
    sink = WandbSink(WandbSink.Options(mode="offline"))
    sink.sink_open(run_record("a"), tmp_path)
    sink.sink_write(sample(1, 3))
    sink.sink_close("finished", "")
    assert [row["telemetry/seq"] for row in rows(tmp_path)] == [1, 2, 3]
    assert list((tmp_path / ".wandb").iterdir()) == []


def test_a_folder_that_is_not_writable_is_an_error_and_nothing_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = WandbSink(WandbSink.Options(mode="offline"))
    sink.sink_open(run_record("a"), tmp_path)
    # The tests may run as root, which can write everywhere.
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path) and real(path, mode))
    with pytest.raises(SinkUnavailable, match="is not writable, so wandb chose"):
        sink.sink_write(sample(1, 3))
    monkeypatch.undo()
    again = WandbSink(WandbSink.Options(mode="offline"))
    again.sink_open(run_record("a"), tmp_path)
    again.sink_write(sample(1, 3))
    again.sink_close("finished", "")
    assert [row["telemetry/seq"] for row in rows(tmp_path)] == [1, 2, 3]
