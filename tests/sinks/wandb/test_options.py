"""The W&B sink's options, where it writes, and what it keeps to itself."""

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
from support.wandb_kit import cores, deliver, opened, records, rows, segment_files, seqs, wandb_cli
from support.wandb_server import KEY, Fault, WandbServer
from telemetry import SettingError
from telemetry.plugins.registry import select
from telemetry.sink_api import Opened, SinkRejected, SinkUnavailable
from telemetry.testing.points import run_record, sample, scalars


class TestOptions:
    def test_unknown_and_mistyped_options_are_refused_by_name(self) -> None:
        with pytest.raises(
            SettingError, match=r"'run_name'.*available: project, entity, name, group, tags, notes, mode"
        ):
            select(["wandb"], {"wandb": {"run_name": "x"}})
        with pytest.raises(SettingError, match=r"telemetry\.wandb\.tags"):
            select(["wandb"], {"wandb": {"tags": "a"}})
        with pytest.raises(SettingError, match=r"telemetry\.wandb\.mode"):
            select(["wandb"], {"wandb": {"mode": "disabled"}})

    @pytest.mark.parametrize("name", ["project", "entity", "name", "group", "dir"])
    @pytest.mark.parametrize("value", ["", " \t", "a\0b"])
    def test_an_option_without_a_value_is_refused_when_the_sink_is_chosen(self, name: str, value: str) -> None:
        with pytest.raises(SettingError, match=rf"telemetry\.wandb\.{name} is .*leave it out"):
            select(["wandb"], {"wandb": {name: value}})


class TestMode:
    @pytest.fixture(autouse=True)
    def _no_key(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.chdir(tmp_path)

    def mode(self, folder: Path, option: str | None = None) -> str:
        _, found = opened(folder / "run", mode=option)
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

    @pytest.mark.parametrize(("told", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("online", "online")])
    def test_wandb_mode_counts_for_more_than_a_key(
        self, tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, told: str, mode: str
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", told)
        assert self.mode(tmp_path) == mode
        assert self.mode(tmp_path, "offline") == "offline"
        assert self.mode(tmp_path, "online") == "online"

    def test_what_the_command_has_switched_counts_too(self, tmp_path: Path, wandb_server: WandbServer) -> None:
        (tmp_path / "wandb").mkdir()
        wandb_cli(tmp_path, "offline")
        assert self.mode(tmp_path) == "offline"

    def test_a_wandb_that_is_disabled_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "disabled")
        with pytest.raises(SinkRejected, match=r"disabled, by WANDB_MODE.*leave the sink out"):
            self.mode(tmp_path)
        assert self.mode(tmp_path, "offline") == "offline"

    def test_online_without_a_key_is_refused_with_the_cure(self, tmp_path: Path) -> None:
        with pytest.raises(SinkRejected, match=r"no key for https://\S+: set WANDB_API_KEY.*mode=offline"):
            self.mode(tmp_path, "online")

    def test_a_sweep_is_refused_since_it_names_its_runs_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
        with pytest.raises(SinkRejected, match="unset WANDB_SWEEP_ID"):
            self.mode(tmp_path)


def expanded(pattern: str) -> list[str]:
    """What a shell makes of a part of a command."""
    done = subprocess.run(f"printf '%s\\n' {pattern}", shell=True, check=True, capture_output=True, text=True)  # noqa: S602 - a shell is what reads it
    return done.stdout.splitlines()


class TestPlace:
    def test_files_are_in_the_run_folder_and_the_view_is_the_command_that_syncs_them(self, tmp_path: Path) -> None:
        folder = tmp_path / "it's a run"
        sink, found = opened(folder)
        sink.sink_write([scalars(1)])
        sink.sink_close("finished", "")
        run_id = segment_files(folder)[0].stem.removeprefix("run-")
        assert found.destination == f"{folder}/wandb, run {run_id}"
        command, _, pattern = found.view.partition(" sync ")
        assert command.endswith("wandb")
        assert expanded(pattern) == [str(path.parent) for path in segment_files(folder)]

    def test_the_view_finds_files_that_were_begun_within_a_second(self, tmp_path: Path) -> None:
        found = Opened("")
        for last in (1, 2, 3):
            deliver(tmp_path, sample(1, last), "finished" if last % 2 else "failed")
            found = opened(tmp_path)[1]
        assert expanded(found.view.partition(" sync ")[2]) == sorted(
            str(path.parent) for path in segment_files(tmp_path)
        )
        assert seqs(tmp_path) == [1, 2, 3]

    @pytest.mark.parametrize("absolute", [True, False])
    def test_another_folder_can_be_chosen_from_the_run_folder_on(self, tmp_path: Path, absolute: bool) -> None:
        place = tmp_path / "elsewhere"
        deliver(tmp_path / "run", [scalars(1)], dir=str(place) if absolute else "../elsewhere")
        assert seqs(place) == [1]
        assert not list((tmp_path / "run").iterdir())

    def test_runs_in_one_folder_stay_apart(self, tmp_path: Path) -> None:
        for name, last in (("a", 3), ("b", 2), ("a", 5)):
            deliver(tmp_path / name, sample(1, last), dir="..")
        assert sorted(seqs(tmp_path)) == [1, 1, 2, 2, 3, 4, 5]

    def test_an_earlier_run_of_the_same_name_is_another_run(self, tmp_path: Path) -> None:
        deliver(tmp_path, [scalars(1)])
        _, found = opened(tmp_path, run_record(tmp_path.name, started=5))
        assert found.last_seq is None

    def test_online_destination_and_view_name_the_server_the_owner_and_the_run(
        self, tmp_path: Path, wandb_server: WandbServer
    ) -> None:
        _, found = opened(tmp_path / "run", mode="online", project="p")
        assert found.destination.startswith(f"{wandb_server.url}, chemists/p, run run-")
        assert found.view.startswith(f"{wandb_server.url}/chemists/p/runs/run-")

    def test_only_the_owner_reads_what_is_in_the_folder_that_it_makes(self, tmp_path: Path) -> None:
        deliver(tmp_path, [scalars(1)])
        assert stat.S_IMODE((tmp_path / "wandb").stat().st_mode) == 0o700

    def test_a_default_folder_that_is_a_link_is_refused_and_a_chosen_one_is_not(self, tmp_path: Path) -> None:
        run, outside = tmp_path / "run", tmp_path / "outside"
        run.mkdir()
        outside.mkdir()
        (run / "wandb").symlink_to(outside)
        with pytest.raises(SinkRejected, match=r"wandb is a link to .*set telemetry\.wandb\.dir"):
            opened(run, mode="offline")
        assert not list(outside.iterdir())
        _, found = opened(run, mode="offline", dir=".")
        assert found.destination.startswith(str(run / "wandb"))

    def test_links_in_its_folder_are_neither_read_nor_written_to(self, tmp_path: Path) -> None:
        deliver(tmp_path / "real", [scalars(1)])
        (segment,) = segment_files(tmp_path / "real")
        segment.chmod(0o600)
        with segment.open("ab") as file:
            file.write(b"torn")
        before = segment.read_bytes()
        run = tmp_path / "run"
        (run / "wandb").mkdir(parents=True)
        (run / "wandb" / segment.parent.name).symlink_to(segment.parent)
        _, found = opened(run, run_record("real"), mode="offline")
        assert found.last_seq is None
        assert segment.read_bytes() == before
        assert stat.S_IMODE(segment.stat().st_mode) == 0o600

    def test_nothing_is_left_beside_the_run_but_wandbs_folder_and_the_count(self, tmp_path: Path) -> None:
        deliver(tmp_path / "run", sample(1, 3))
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert {name for name in names if not name.endswith(".rows")} == {"wandb"}
        assert len(names) == 2
        assert {path.name for path in tmp_path.iterdir()} == {"run"}


class Listener:
    """A server that takes note of who connects, and hangs up."""

    def __init__(self) -> None:
        self.calls = 0
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
            self.calls += 1
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

    def test_offline_nobody_is_asked(self, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "WANDB_BASE_URL"):
            monkeypatch.setenv(name, listener.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        deliver(tmp_path, sample(1, 20), "failed")
        assert listener.calls == 0
        assert seqs(tmp_path) == list(range(1, 21))

    @pytest.mark.parametrize("mode", ["online", "offline"])
    def test_the_key_is_in_no_file_and_in_no_message(
        self, tmp_path: Path, wandb_server: WandbServer, mode: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink, found = opened(tmp_path, mode=mode)
        sink.sink_write(sample(1, 20))
        sink.sink_close("finished", "")
        told = [found.destination, found.view, caplog.text]
        for fault in (Fault(401), Fault(403), Fault(500), Fault("cut")) if mode == "online" else ():
            wandb_server.fail(fault)
            with pytest.raises((SinkRejected, SinkUnavailable)) as caught:
                opened(tmp_path, mode=mode)
            told.append(f"{caught.value} {caught.value.__cause__}")
        assert KEY not in "".join(told)
        held = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
        assert held == []

    def test_the_wandb_of_a_trainer_is_not_shared(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/tmp/there-is-no-such-socket")
        deliver(tmp_path, [scalars(1)])
        assert len(rows(tmp_path)) == 1
        assert len(cores()) == 1

    def test_a_run_of_the_users_own_in_this_process_goes_on(self, tmp_path: Path) -> None:
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
def test_a_project_that_wandb_would_refuse_is_refused_when_the_sink_is_chosen(project: str) -> None:
    with pytest.raises(SettingError, match=rf"telemetry\.wandb\.project is '{project}'; W&B takes no [/%:] in it"):
        select(["wandb"], {"wandb": {"project": project}})


def test_files_go_into_the_folder_that_is_looked_at_also_beside_one_that_wandb_would_prefer(tmp_path: Path) -> None:
    (tmp_path / ".wandb").mkdir()
    sink = WandbSink(WandbSink.Options(mode="offline"))
    sink.sink_open(run_record("a"), tmp_path)
    sink.sink_write(sample(1, 3))
    sink.sink_close("finished", "")
    assert [row["telemetry/seq"] for row in rows(tmp_path)] == [1, 2, 3]
    assert list((tmp_path / ".wandb").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_told_and_nothing_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = WandbSink(WandbSink.Options(mode="offline"))
    sink.sink_open(run_record("a"), tmp_path)
    # Root may write everywhere, so wandb is told that it may not.
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path) and real(path, mode))
    with pytest.raises(SinkUnavailable, match="cannot be written to, and wandb went to"):
        sink.sink_write(sample(1, 3))
    monkeypatch.undo()
    again = WandbSink(WandbSink.Options(mode="offline"))
    again.sink_open(run_record("a"), tmp_path)
    again.sink_write(sample(1, 3))
    again.sink_close("finished", "")
    assert [row["telemetry/seq"] for row in rows(tmp_path)] == [1, 2, 3]
