"""The wait for the trainer of a run: at once, with messages, and bounded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aimnet2mult.errors import RunBusy
from aimnet2mult.train.trainer_wait import TrainerWait
from support.telemetry_fakes import DEAD, FOREIGN, FakeClock, beat
from telemetry import RunAlive
from telemetry.run_folder.process_identity import current_process


class Watch:
    """A wait on a fake clock; the trainer does something at each second."""

    def __init__(self, limit: float, happens: Callable[[int], None] = lambda _: None) -> None:
        self.clock = FakeClock()
        self.lines: list[str] = []
        self._happens = happens
        self.wait = TrainerWait(self._say, limit, clock=self.clock, sleep=self._sleep)

    def _say(self, line: str) -> None:
        self.lines.append(f"{len(self.clock.sleeps)} s: {line}")

    def _sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        self._happens(len(self.clock.sleeps))


def beats_until(folder: Path, end: int) -> Callable[[int], None]:
    """Return a function that writes a heartbeat every 10 s until a number of seconds."""

    def write(second: int) -> None:
        if second % 10 == 0 and second <= end:
            beat(folder, FOREIGN, beat=second)

    return write


def test_a_run_without_a_living_trainer_needs_no_wait(tmp_path: Path) -> None:
    watch = Watch(600)
    assert not watch.wait.until_dead(tmp_path, local=True)
    beat(tmp_path, DEAD)
    assert not watch.wait.until_dead(tmp_path, local=True)
    beat(tmp_path, FOREIGN, beat=-1)
    assert not watch.wait.until_dead(tmp_path, local=True)
    assert (watch.lines, watch.clock.sleeps) == ([], [])


def test_a_trainer_elsewhere_is_watched_with_a_message_at_once(tmp_path: Path) -> None:
    beat(tmp_path, FOREIGN)
    watch = Watch(600)
    assert watch.wait.until_dead(tmp_path, local=False)
    assert len(watch.clock.sleeps) == 60
    trainer = f"the trainer of {tmp_path} (process 4711 on elsewhere)"
    assert watch.lines == [f"0 s: watching the heartbeat of {trainer} for up to 60 s: it may be alive"]
    assert not watch.wait.until_dead(tmp_path, local=False), "nothing is watched twice"
    assert watch.wait.probe(tmp_path).wait(lambda _: pytest.fail("watched again")) is False


def test_a_trainer_that_lives_on_elsewhere_is_waited_for_with_a_line_every_minute(tmp_path: Path) -> None:
    beat(tmp_path, FOREIGN)
    watch = Watch(600, beats_until(tmp_path, 130))
    assert watch.wait.until_dead(tmp_path, local=False)
    assert len(watch.clock.sleeps) == 130 + 60
    assert [line.partition(": ")[0] for line in watch.lines] == ["0 s", "10 s", "70 s", "130 s"]
    trainer = f"the trainer of {tmp_path} (process 4711 on elsewhere)"
    assert watch.lines[1] == f"10 s: waiting for {trainer} to end: it is alive; giving up in 9.8 min"


def test_the_wait_is_bounded_for_all_runs_together(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b")]
    for run in runs:
        run.mkdir()
        beat(run, FOREIGN)
    watch = Watch(120, beats_until(runs[1], 10**6))
    watch.wait.until_dead(runs[0], local=False)
    with pytest.raises(
        RunBusy, match=r"the trainer of .*b \(process 4711 on elsewhere\) may still be alive; try again"
    ):
        watch.wait.until_dead(runs[1], local=False)
    assert len(watch.clock.sleeps) == 120


def test_a_trainer_on_this_machine_is_waited_for_only_on_request(tmp_path: Path) -> None:
    beat(tmp_path, current_process())
    watch = Watch(600, lambda second: beat(tmp_path, DEAD) if second == 5 else None)
    with pytest.raises(RunAlive, match="is alive"):
        watch.wait.until_dead(tmp_path, local=False)
    assert (watch.lines, watch.clock.sleeps) == ([], [])
    assert watch.wait.until_dead(tmp_path, local=True)
    assert len(watch.clock.sleeps) == 5
    assert len(watch.lines) == 1


def test_whether_a_trainer_is_alive_is_known_at_its_next_heartbeat(tmp_path: Path) -> None:
    beat(tmp_path, FOREIGN)
    watch = Watch(600, beats_until(tmp_path, 10))
    assert watch.wait.is_alive(tmp_path)
    assert len(watch.clock.sleeps) == 10
    assert [line.partition(" the ")[0] for line in watch.lines] == ["0 s: watching"]
