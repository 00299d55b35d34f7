"""Power cuts: synced records survive, and no other values appear."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.telemetry_fakes import METRICS, Backend, HandMadeRun, sink_for
from telemetry import Settings, open_run
from telemetry.delivery.delivery import Delivery
from telemetry.journal import writer as journal
from telemetry.journal.reader import JournalReader
from telemetry.records import Scalars

CALLS = ("write", "fdatasync", "fsync", "open", "close")


class ForgetfulOs:
    """An ``os`` for the journal that remembers what has been synced, and calls ``cut`` in the middle of a call.

    A disk without power keeps of each file what was synced, and of the rest whatever it likes; of files whose folder
    was not synced since they were made, not even the name.
    """

    def __init__(self, calls: int, cut: Callable[[], None]) -> None:
        self.synced: dict[str, int] = {}
        self.named: set[str] = set()
        self._made: set[str] = set()
        self._names: dict[int, str] = {}
        self._left, self._cut = calls, cut

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counting(name, real) if name in CALLS else real

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self._left -= 1
            if not self._left:
                self._cut()
            # Skip the real sync, which only takes time; durable bytes are tracked here.
            answer = None if name in {"fdatasync", "fsync"} else real(*args, **more)
            self._note(name, args, answer)
            return answer

        return call

    def _note(self, name: str, args: Any, answer: Any) -> None:
        if name == "open":
            path = os.fspath(args[0])
            self._names[answer] = path
            if args[1] & os.O_CREAT:
                self._made.add(path)
        elif name == "fdatasync":
            self.synced[self._names[args[0]]] = os.fstat(args[0]).st_size
        elif name == "fsync":
            self.named |= {path for path in self._made if Path(path).parent == Path(self._names[args[0]])}

    def left_of(self, folder: Path, target: Path, chance: random.Random) -> None:
        """Write the files as they are on the disk after the power cut."""
        (target / "sinks").mkdir(parents=True)
        for path in sorted(folder.glob("journal-*.jsonl")):
            data, safe = path.read_bytes(), self.synced.get(str(path), 0)
            if str(path) in self.named or chance.random() < 0.5:
                rest = data[safe:]
                kept = chance.choice([b"", rest, rest[: len(rest) // 2], bytes(len(rest)), chance.randbytes(len(rest))])
                (target / path.name).write_bytes(data[:safe] + kept)


def published(folder: Path) -> list[int]:
    """Return the iterations in a journal; each value equals its iteration."""
    records = JournalReader(folder).read(100_000, live=False)
    found = [record for record in records if isinstance(record, Scalars)]
    assert all(record.values == {"loss": float(record.step)} for record in found)
    return [record.step for record in found]


@pytest.mark.parametrize("seed", range(60))
def test_records_counted_as_journaled_survive_a_power_cut_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    safe: list[int] = []
    run, left = tmp_path / "run", tmp_path / "left"

    def cut() -> None:
        safe.append(bus.counts().journaled if bus else 0)
        disk.left_of(run, left, chance)

    bus: Any = None
    disk = ForgetfulOs(chance.randint(8, 60), cut)
    monkeypatch.setattr(journal, "os", disk)
    bus = open_run(run, metrics=METRICS, sinks=[], settings=Settings(every=1))
    for step in range(1, 200):
        bus.publish("train", step, {"loss": float(step)})
        if chance.random() < 0.5:
            bus.flush(10)
    bus.close(timeout=0)
    kept = published(left)
    assert set(range(1, safe[0] + 1)) <= set(kept)
    assert kept == sorted(set(kept))


def test_a_backend_ahead_of_the_disk_receives_only_the_following_records(tmp_path: Path) -> None:
    backend = Backend()
    run = HandMadeRun(tmp_path / "run")
    run.points(1, 2, 3, 4)

    def deliver() -> None:
        delivery = Delivery(run.folder, sink_for(backend), Settings(), follow=False)
        delivery.lease.acquire()
        delivery.run()

    deliver()
    # The disk had not yet written the last two records, nor the progress of the sink.
    path = run.folder / "journal-0.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    (run.folder / "sinks" / "memory.json").write_bytes(b"")
    run.die()
    run.begin(resume_step=2)
    run.points(3, 4, 5)
    run.close()
    deliver()
    assert backend.seqs() == sorted(set(backend.seqs()))
    assert [r.step for r in backend.held if isinstance(r, Scalars)] == [1, 2, 3, 4, 3, 4, 5]
