"""Whether a trainer is alive: known at once if it is on this machine, otherwise judged by its heartbeat."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.telemetry_fakes import DEAD, FOREIGN, FakeClock, beat
from telemetry.run_folder.heartbeat import read_heartbeat
from telemetry.run_folder.paths import heartbeat_path
from telemetry.run_folder.process_identity import current_process
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def probe(tmp_path: Path, clock: FakeClock) -> TrainerLivenessProbe:
    return TrainerLivenessProbe(tmp_path, clock=clock)


def test_whether_a_trainer_on_this_machine_is_alive_is_known_at_once(
    tmp_path: Path, probe: TrainerLivenessProbe
) -> None:
    beat(tmp_path, current_process())
    assert probe.is_alive() is True
    beat(tmp_path, DEAD)
    assert probe.is_alive() is False


def test_a_trainer_on_this_machine_is_alive_however_old_its_heartbeat_is(
    tmp_path: Path, probe: TrainerLivenessProbe, clock: FakeClock
) -> None:
    beat(tmp_path, current_process())
    for _ in range(5):
        clock.now += 1000
        assert probe.is_alive() is True


def test_after_the_last_heartbeat_of_a_closed_run_its_trainer_counts_as_dead(
    tmp_path: Path, probe: TrainerLivenessProbe
) -> None:
    beat(tmp_path, current_process(), beat=-1)
    assert probe.is_alive() is False
    beat(tmp_path, FOREIGN, beat=-1)
    assert probe.is_alive() is False


def test_a_trainer_elsewhere_counts_as_dead_after_a_minute_without_a_new_heartbeat(
    tmp_path: Path, probe: TrainerLivenessProbe, clock: FakeClock
) -> None:
    beat(tmp_path, FOREIGN, beat=5)
    assert probe.is_alive() is None
    clock.now += 59.9
    assert probe.is_alive() is None
    clock.now += 0.1
    assert probe.is_alive() is False


def test_a_trainer_elsewhere_is_alive_once_its_heartbeat_has_changed(
    tmp_path: Path, probe: TrainerLivenessProbe, clock: FakeClock
) -> None:
    beat(tmp_path, FOREIGN, beat=5)
    assert probe.is_alive() is None
    for number in range(6, 20):
        clock.now += 59.9
        beat(tmp_path, FOREIGN, beat=number)
        assert probe.is_alive() is True
        assert probe.is_alive() is True
    clock.now += 60
    assert probe.is_alive() is False


def test_a_new_attempt_elsewhere_counts_as_a_new_heartbeat(
    tmp_path: Path, probe: TrainerLivenessProbe, clock: FakeClock
) -> None:
    beat(tmp_path, FOREIGN, beat=1, attempt=1)
    assert probe.is_alive() is None
    clock.now += 59
    beat(tmp_path, FOREIGN, beat=1, attempt=2)
    assert probe.is_alive() is True


@pytest.mark.parametrize("content", [None, b"", b"{", b"\0\0\0", b'{"beat": "x"}', b"\xff\xfe"])
def test_without_a_readable_heartbeat_the_trainer_counts_as_dead_after_a_minute(
    tmp_path: Path, probe: TrainerLivenessProbe, clock: FakeClock, content: bytes | None
) -> None:
    if content is not None:
        heartbeat_path(tmp_path).write_bytes(content)
    assert read_heartbeat(tmp_path) is None
    assert probe.is_alive() is None
    assert probe.wait(clock.sleep) is False
    assert 60 <= sum(clock.sleeps) <= 61


def test_waiting_ends_once_the_answer_is_known(tmp_path: Path, probe: TrainerLivenessProbe, clock: FakeClock) -> None:
    beat(tmp_path, FOREIGN, beat=1)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.sleeps) == 7:
            beat(tmp_path, FOREIGN, beat=2)

    assert probe.wait(sleep) is True
    assert len(clock.sleeps) == 7


def test_neither_file_times_nor_the_wall_clock_are_used(
    tmp_path: Path, probe: TrainerLivenessProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(tmp_path, FOREIGN)
    os.utime(heartbeat_path(tmp_path), (0, 0))
    monkeypatch.setattr("time.time", lambda: pytest.fail("the wall clock was read"))
    assert probe.is_alive() is None
