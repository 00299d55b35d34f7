"""The lease: one delivery per sink, despite killed, stalled and concurrent processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from support.telemetry_fakes import DEAD, FOREIGN, FakeClock, eventually
from telemetry import LeaseHeld
from telemetry.run_folder.atomic_write import write_json
from telemetry.run_folder.lease import Holder, Lease
from telemetry.run_folder.process_identity import ProcessIdentity, current_process


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def lease(tmp_path: Path, clock: FakeClock) -> Lease:
    return Lease(tmp_path / "sinks", "sink", clock=clock)


def hold(folder: Path, who: ProcessIdentity, beat: int = 1, *, number: int = 1, released: bool = False) -> None:
    """Write a lease file as its holder does."""
    (folder / "sinks").mkdir(exist_ok=True)
    write_json(folder / "sinks" / f"sink.lease-{number}", Holder(who=who, beat=beat, released=released))


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "sinks"))


def test_the_first_to_ask_gets_the_lease_and_the_next_does_not(tmp_path: Path, lease: Lease) -> None:
    other = Lease(tmp_path / "sinks", "sink")
    assert lease.try_acquire()
    assert not other.try_acquire()
    assert lease.is_held()
    assert not other.is_held()


def test_each_sink_has_its_own_lease(tmp_path: Path, lease: Lease) -> None:
    assert lease.try_acquire()
    assert Lease(tmp_path / "sinks", "sink2").try_acquire()
    assert Lease(tmp_path / "sinks", "sin").try_acquire()
    assert lease.is_held()


def test_the_holder_is_known_to_others(tmp_path: Path, lease: Lease) -> None:
    other = Lease(tmp_path / "sinks", "sink")
    assert other.holder() is None
    assert lease.try_acquire()
    assert other.holder() == current_process()
    with pytest.raises(LeaseHeld, match=f"process {os.getpid()} on .* is already delivering this run to 'sink'"):
        other.acquire()


def test_a_released_lease_can_be_acquired_by_any_process(tmp_path: Path, lease: Lease) -> None:
    other = Lease(tmp_path / "sinks", "sink")
    for taker in (lease, other, lease, lease):
        assert taker.try_acquire()
        taker.release()
        assert not taker.is_held()
        assert taker.holder() is None
    assert len(files(tmp_path)) == 1


def test_a_second_release_does_not_affect_the_next_holder(tmp_path: Path, lease: Lease) -> None:
    other = Lease(tmp_path / "sinks", "sink")
    assert lease.try_acquire()
    lease.release()
    assert other.try_acquire()
    lease.release()
    assert other.is_held()
    assert other.holder() == current_process()


def test_the_lease_of_a_dead_process_is_free_at_once(tmp_path: Path, lease: Lease, clock: FakeClock) -> None:
    hold(tmp_path, DEAD)
    assert lease.holder() is None
    lease.acquire(clock.sleep)
    assert clock.sleeps == []


def test_a_killed_process_loses_the_lease_at_once(tmp_path: Path, lease: Lease) -> None:
    code = f"""
from pathlib import Path
from telemetry.run_folder.lease import Lease
assert Lease(Path({str(tmp_path / "sinks")!r}), "sink").try_acquire()
print("held", flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert not lease.try_acquire()
        assert lease.holder() is not None
        holder.kill()
        # A zombie, which it is until its parent waits for it, is dead too.
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        assert lease.try_acquire()


def test_a_holder_elsewhere_loses_the_lease_after_a_minute_without_renewal(
    tmp_path: Path, lease: Lease, clock: FakeClock
) -> None:
    hold(tmp_path, FOREIGN)
    assert not lease.try_acquire()
    clock.now += 59.9
    assert not lease.try_acquire()
    clock.now += 0.1
    assert lease.try_acquire()


def test_each_renewal_restarts_the_minute(tmp_path: Path, lease: Lease, clock: FakeClock) -> None:
    for beat in range(1, 20):
        hold(tmp_path, FOREIGN, beat)
        assert not lease.try_acquire()
        clock.now += 59.9
        assert not lease.try_acquire()


def test_the_minute_starts_when_the_lease_is_first_observed(tmp_path: Path, lease: Lease, clock: FakeClock) -> None:
    hold(tmp_path, FOREIGN)
    clock.now += 1000
    assert not lease.try_acquire()


def test_waiting_ends_with_an_error_once_a_holder_elsewhere_renews(
    tmp_path: Path, lease: Lease, clock: FakeClock
) -> None:
    hold(tmp_path, FOREIGN, 1)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.sleeps) == 10:
            hold(tmp_path, FOREIGN, 2)

    with pytest.raises(LeaseHeld, match="process 4711 on elsewhere"):
        lease.acquire(sleep)
    assert len(clock.sleeps) == 10
    assert not lease.is_held()


def test_waiting_ends_with_the_lease_if_a_holder_elsewhere_is_gone(
    tmp_path: Path, lease: Lease, clock: FakeClock
) -> None:
    hold(tmp_path, FOREIGN)
    lease.acquire(clock.sleep)
    assert lease.is_held()
    assert 60 <= sum(clock.sleeps) <= 62


def test_the_old_holder_notices_that_it_has_lost_the_lease(tmp_path: Path, lease: Lease) -> None:
    assert lease.try_acquire()
    assert lease.renew()
    clock = FakeClock()
    other = Lease(tmp_path / "sinks", "sink", clock=clock)
    assert not other.try_acquire()
    clock.now += 60
    assert other.try_acquire()
    assert not lease.is_held()
    assert not lease.renew()
    lease.release()
    assert other.is_held()
    assert other.renew()
    assert files(tmp_path) == ["sink.lease-2"]


def test_a_holder_that_renews_keeps_the_lease(tmp_path: Path, lease: Lease) -> None:
    assert lease.try_acquire()
    clock = FakeClock()
    other = Lease(tmp_path / "sinks", "sink", clock=clock)
    for _ in range(20):
        assert not other.try_acquire()
        clock.now += 50
        assert lease.renew()
    assert lease.is_held()


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100, b"[]", b'{"who":1}', b"\xff", b"[" * 100_000])
def test_an_unreadable_lease_is_free_after_a_minute(
    tmp_path: Path, lease: Lease, clock: FakeClock, content: bytes
) -> None:
    (tmp_path / "sinks").mkdir()
    (tmp_path / "sinks" / "sink.lease-7").write_bytes(content)
    assert lease.holder() is None
    lease.acquire(clock.sleep)
    assert 60 <= sum(clock.sleeps) <= 62
    assert files(tmp_path) == ["sink.lease-8"]


@pytest.mark.parametrize("name", ["sink.lease-", "sink.lease-x", "sink.lease--1", "sink.lease-²", ".sink.lease-9.tmp"])
def test_files_with_other_names_are_ignored(tmp_path: Path, lease: Lease, name: str) -> None:
    (tmp_path / "sinks").mkdir()
    (tmp_path / "sinks" / name).write_text("{}")
    assert lease.try_acquire()
    assert files(tmp_path) == sorted([name, "sink.lease-1"])


def interrupt_creation(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Perform ``action`` once, after the next ``try_acquire`` has listed the folder and before it creates its file."""
    urandom = os.urandom

    def interrupted(size: int) -> bytes:
        monkeypatch.setattr("telemetry.run_folder.lease.os.urandom", urandom)
        action()
        return urandom(size)

    monkeypatch.setattr("telemetry.run_folder.lease.os.urandom", interrupted)


def test_a_slow_process_does_not_acquire_a_number_used_since_it_looked(
    tmp_path: Path, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Lease(tmp_path / "sinks", "sink")
    third = Lease(tmp_path / "sinks", "sink")
    hold(tmp_path, DEAD)

    def overtake() -> None:
        assert lease.try_acquire()
        lease.release()
        assert third.try_acquire()

    interrupt_creation(monkeypatch, overtake)
    assert not slow.try_acquire()
    assert third.is_held()
    assert not slow.is_held()
    assert files(tmp_path) == ["sink.lease-3"]


def test_of_many_competing_threads_one_at_a_time_holds_the_lease_and_none_starves(tmp_path: Path) -> None:
    inside: list[int] = []
    crowds: list[int] = []

    def take(number: int) -> None:
        mine = Lease(tmp_path / "sinks", "sink")
        for _ in range(10):
            eventually(mine.try_acquire)
            inside.append(number)
            crowds.append(len(inside))
            inside.remove(number)
            mine.release()

    threads = [threading.Thread(target=take, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crowds == [1] * 60


def test_exactly_one_of_many_concurrent_processes_gets_the_lease(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from telemetry.run_folder.lease import Lease
folder = Path({str(tmp_path)!r})
print("ready", flush=True)
for line in sys.stdin:
    print(int(Lease(folder / line.strip() / "sinks", "sink").try_acquire()), flush=True)
"""
    args = [sys.executable, "-c", code]
    takers = [
        subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)
    ]
    try:
        for taker in takers:
            assert taker.stdout is not None
            assert taker.stdout.readline() == "ready\n"
        for turn in range(50):
            (tmp_path / str(turn)).mkdir()
            if turn % 2:
                hold(tmp_path / str(turn), DEAD)
            for taker in takers:
                assert taker.stdin is not None
                taker.stdin.write(f"{turn}\n")
            answers = [int(taker.stdout.readline()) for taker in takers if taker.stdout is not None]
            assert sum(answers) == 1, (turn, answers)
    finally:
        for taker in takers:
            taker.communicate()


TAKER = """
import os, signal, sys
from pathlib import Path
from telemetry.run_folder.lease import Lease
name, when, folder = sys.argv[1:]
call = getattr(os, name)

def killed(*args, **more):
    if when == "after":
        call(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(os, name, killed)
Lease(Path(folder), "sink").try_acquire()
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["open", "link"])
def test_a_process_killed_while_acquiring_does_not_block_others(
    tmp_path: Path, lease: Lease, call: str, when: str
) -> None:
    taker = subprocess.run([sys.executable, "-c", TAKER, call, when, tmp_path / "sinks"], check=False)
    assert taker.returncode == -signal.SIGKILL
    assert lease.try_acquire()
    assert lease.is_held()
    (name,) = files(tmp_path)
    assert name.startswith("sink.lease-"), "a temporary file is left"


def test_without_hard_links_still_only_one_process_gets_the_lease(
    tmp_path: Path, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def overtake() -> None:
        assert lease.try_acquire()

    monkeypatch.setattr("telemetry.run_folder.lease.os.link", refuse)
    other = Lease(tmp_path / "sinks", "sink")
    interrupt_creation(monkeypatch, overtake)
    assert not other.try_acquire()
    assert lease.is_held()
    assert not other.try_acquire()
    assert files(tmp_path) == ["sink.lease-1"]


def test_a_link_request_repeated_by_nfs_still_counts(
    tmp_path: Path, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def answered_twice(*args: str) -> None:
        link(*args)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr("telemetry.run_folder.lease.os.link", answered_twice)
    assert lease.try_acquire()
    assert lease.is_held()


def test_a_slow_process_whose_temporary_file_was_removed_does_not_get_the_lease(
    tmp_path: Path, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Lease(tmp_path / "sinks", "sink")
    link = os.link

    def overtaken(*args: str) -> None:
        monkeypatch.setattr("telemetry.run_folder.lease.os.link", link)
        assert lease.try_acquire()
        link(*args)

    monkeypatch.setattr("telemetry.run_folder.lease.os.link", overtaken)
    assert not slow.try_acquire()
    assert lease.is_held()
    assert files(tmp_path) == ["sink.lease-1"]


def test_the_lease_file_names_the_holder_and_is_readable_by_its_owner_only(tmp_path: Path, lease: Lease) -> None:
    assert lease.try_acquire()
    (path,) = (tmp_path / "sinks").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    content = json.loads(path.read_bytes())
    assert content["who"] == msgspec.to_builtins(current_process())
    lease.renew()
    assert json.loads(path.read_bytes())["beat"] == content["beat"] + 1


def test_a_holder_survives_the_removal_of_the_folder(tmp_path: Path, lease: Lease) -> None:
    assert lease.try_acquire()
    (tmp_path / "sinks" / "sink.lease-1").unlink()
    (tmp_path / "sinks").rmdir()
    assert lease.is_held()
    lease.release()


def test_an_error_of_the_disk_while_acquiring_is_raised(
    tmp_path: Path, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("telemetry.run_folder.lease.os.link", fail)
    with pytest.raises(OSError, match="No space left"):
        lease.try_acquire()
    assert files(tmp_path) == []
    assert not lease.is_held()


def test_only_the_highest_number_counts(tmp_path: Path, lease: Lease) -> None:
    other = current_process()
    hold(tmp_path, FOREIGN, number=1)
    hold(tmp_path, other, number=2)
    assert lease.holder() == other
    hold(tmp_path, other, number=2, released=True)
    assert lease.try_acquire()
    hold(tmp_path, FOREIGN, number=1)  # restored from a backup, or seen late on a network file system
    assert lease.is_held()
