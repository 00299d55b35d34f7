"""Whether a process lives: known at once where it can be seen, else told by its beat; clocks are never compared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from support.telemetry_fakes import DEAD, FOREIGN, FakeClock, beat
from telemetry.run_folder.heartbeat import TrainerLivenessProbe, heartbeat_path, read_heartbeat
from telemetry.run_folder.process_identity import ProcessIdentity, current_process


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def watch(tmp_path: Path, clock: FakeClock) -> TrainerLivenessProbe:
    return TrainerLivenessProbe(tmp_path, clock=clock)


def test_a_trainer_on_this_machine_is_seen_to_live_and_to_be_dead_at_once(
    tmp_path: Path, watch: TrainerLivenessProbe
) -> None:
    beat(tmp_path, current_process())
    assert watch.is_alive() is True
    beat(tmp_path, DEAD)
    assert watch.is_alive() is False


def test_a_trainer_on_this_machine_lives_however_long_its_beat_stands_still(
    tmp_path: Path, watch: TrainerLivenessProbe, clock: FakeClock
) -> None:
    beat(tmp_path, current_process())
    for _ in range(5):
        clock.now += 1000
        assert watch.is_alive() is True


def test_the_last_beat_of_a_run_that_was_closed_counts_as_an_end_while_the_process_goes_on(
    tmp_path: Path, watch: TrainerLivenessProbe
) -> None:
    beat(tmp_path, current_process(), beat=-1)
    assert watch.is_alive() is False
    beat(tmp_path, FOREIGN, beat=-1)
    assert watch.is_alive() is False


def test_a_trainer_elsewhere_is_held_for_dead_when_its_beat_has_stood_still_for_a_minute(
    tmp_path: Path, watch: TrainerLivenessProbe, clock: FakeClock
) -> None:
    beat(tmp_path, FOREIGN, beat=5)
    assert watch.is_alive() is None
    clock.now += 59.9
    assert watch.is_alive() is None
    clock.now += 0.1
    assert watch.is_alive() is False


def test_a_trainer_elsewhere_lives_as_soon_as_its_beat_has_moved(
    tmp_path: Path, watch: TrainerLivenessProbe, clock: FakeClock
) -> None:
    beat(tmp_path, FOREIGN, beat=5)
    assert watch.is_alive() is None
    for number in range(6, 20):
        clock.now += 59.9
        beat(tmp_path, FOREIGN, beat=number)
        assert watch.is_alive() is True
        assert watch.is_alive() is True
    clock.now += 60
    assert watch.is_alive() is False


def test_a_new_attempt_elsewhere_is_a_sign_of_life_even_with_the_same_beat(
    tmp_path: Path, watch: TrainerLivenessProbe, clock: FakeClock
) -> None:
    beat(tmp_path, FOREIGN, beat=1, attempt=1)
    assert watch.is_alive() is None
    clock.now += 59
    beat(tmp_path, FOREIGN, beat=1, attempt=2)
    assert watch.is_alive() is True


@pytest.mark.parametrize("content", [None, b"", b"{", b"\0\0\0", b'{"beat": "x"}', b"\xff\xfe"])
def test_without_a_readable_beat_the_trainer_is_held_for_dead_after_a_minute(
    tmp_path: Path, watch: TrainerLivenessProbe, clock: FakeClock, content: bytes | None
) -> None:
    if content is not None:
        heartbeat_path(tmp_path).write_bytes(content)
    assert read_heartbeat(tmp_path) is None
    assert watch.is_alive() is None
    assert watch.wait(clock.sleep) is False
    assert 60 <= sum(clock.sleeps) <= 61


def test_waiting_ends_as_soon_as_it_can_be_told(tmp_path: Path, watch: TrainerLivenessProbe, clock: FakeClock) -> None:
    beat(tmp_path, FOREIGN, beat=1)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.sleeps) == 7:
            beat(tmp_path, FOREIGN, beat=2)

    assert watch.wait(sleep) is True
    assert len(clock.sleeps) == 7


def test_the_clocks_of_two_machines_are_never_compared(
    tmp_path: Path, watch: TrainerLivenessProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(tmp_path, FOREIGN)
    os.utime(heartbeat_path(tmp_path), (0, 0))
    monkeypatch.setattr("time.time", lambda: pytest.fail("the wall clock was read"))
    assert watch.is_alive() is None


def test_a_process_knows_itself_to_live(tmp_path: Path) -> None:
    me = current_process()
    assert me.is_local()
    assert not me.is_dead()
    assert str(os.getpid()) in str(me)


def test_a_process_that_has_ended_is_dead_also_as_a_zombie() -> None:
    code = "from telemetry.run_folder.process_identity import current_process; import msgspec; "
    code += "print(msgspec.json.encode(current_process()).decode())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        identity = msgspec.json.decode(process.stdout.read(), type=ProcessIdentity)
        assert identity.pid == process.pid
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identity.is_dead()
    assert identity.is_dead()


def test_a_process_id_that_was_given_again_is_told_apart_by_the_start_time() -> None:
    assert msgspec.structs.replace(current_process(), started="1").is_dead()


def test_a_process_in_another_namespace_or_boot_is_never_held_for_dead_by_its_id() -> None:
    elsewhere = msgspec.structs.replace(current_process(), pid=2**22 + 1, kernel="another-boot/1")
    assert not elsewhere.is_local()
    assert not elsewhere.is_dead()
    unknown = msgspec.structs.replace(elsewhere, kernel="")
    assert not unknown.is_local()
    assert not unknown.is_dead()


def test_where_the_system_does_not_tell_no_process_is_held_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.run_folder.process_identity._kernel", lambda: "")
    ended = msgspec.structs.replace(current_process(), started="1")
    assert not ended.is_local()
    assert not ended.is_dead()


def test_a_command_name_with_parentheses_and_blanks_is_no_hindrance(tmp_path: Path) -> None:
    script = tmp_path / "a) Z (b c"
    script.symlink_to(sys.executable)
    code = "from telemetry.run_folder.process_identity import current_process; import time; "
    code += "print(current_process().started, flush=True); input()"
    python = Path(sys.executable)
    with subprocess.Popen(
        [script, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHOME": sys.base_prefix, "_": str(python)},
    ) as process:
        assert process.stdout is not None
        started = process.stdout.readline().strip()
        assert started.isdigit()
        identity = msgspec.structs.replace(current_process(), pid=process.pid, started=started)
        assert not identity.is_dead()
        process.communicate("\n")
