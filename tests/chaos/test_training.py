"""The real trainer, killed and stopped repeatedly: its curves finally equal those of an undisturbed training."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aimnet2mult.cli.sample_data import SAMPLE
from aimnet2mult.config.merge import write_yaml
from support.chaos.backends import Recording, TensorBoard
from support.chaos.processes import kill, named
from support.telemetry_fakes import eventually
from telemetry import read_receipt
from telemetry.journal.reader import JournalReader
from telemetry.journal.segments import segments
from telemetry.sink_api import Scalars

pytest.importorskip("aimnet")
h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.chaos

EPOCHS, BATCHES, EVERY = 250, 7, 5
ENDS = ("trainer", "job", "SIGTERM", "SIGINT", "trainer", "job", "delivery", "trainer")
"""How each life of the trainer ends."""
LONG = 600.0
"""Seconds that a training, or its start, may take on a busy machine."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The settings of a training on the first structures of the sample."""
    for name in ("gfn1.h5", "spgfn2.h5"):
        with h5py.File(SAMPLE / name) as whole, h5py.File(tmp_path / name, "w") as part:
            for key, values in whole["003"].items():
                part[f"003/{key}"] = values[:40]
    path = tmp_path / "train.yaml"
    write_yaml(
        path,
        {
            "run_name": "killed",
            "threads": 1,
            "device": "cpu",
            "data": {
                "fidelity_datasets": {0: "gfn1.h5", 1: "spgfn2.h5"},
                "samplers": {"train": {"batch_size": 8, "batches_per_epoch": BATCHES}},
            },
            "trainer": {"epochs": EPOCHS},
            "telemetry": {"every": EVERY, "system": 0, "drain_timeout": LONG, "poll": 0.2},
        },
    )
    return path


class Job:
    """Successive trainings in one run folder."""

    def __init__(self, config: Path, runs: Path, *options: str) -> None:
        self._words = ["--config", str(config), "--model", str(SAMPLE / "model.yaml"), "--telemetry-dir", str(runs)]
        self._words += options
        self.runs = runs
        self._programs: list[subprocess.Popen[bytes]] = []

    @property
    def run(self) -> Path:
        (run,) = self.runs.glob("killed-*")
        return run

    def train(self) -> subprocess.Popen[bytes]:
        resume = ["--resume", "auto"] if self._programs else []
        with (self.runs.parent / f"{self.runs.name}.log").open("ab") as log:
            program = subprocess.Popen(
                [sys.executable, "-m", "aimnet2mult.cli", "train", *self._words, *resume],
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self._programs.append(program)
        return program

    def output(self) -> str:
        return (self.runs.parent / f"{self.runs.name}.log").read_text()

    def points(self) -> dict[tuple[str, int], dict[str, float]]:
        """Return the valid values in the journal by stream and iteration, without the speed."""
        return {
            (record.stream, record.step): {name: value for name, value in record.values.items() if name != "it_per_s"}
            for record in self.records(superseded=False).values()
        }

    def records(self, *, superseded: bool = True) -> dict[int, Scalars]:
        found = JournalReader(self.run, superseded=superseded).read(100_000, live=False)
        return {record.seq: record for record in found if isinstance(record, Scalars)}

    def end(self) -> None:
        for program in self._programs:
            for pid in named(program.pid, "job") if program.poll() is None else ():
                kill(pid)
            program.wait()


@pytest.fixture
def job(config: Path, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def make(name: str, *options: str) -> Job:
        (tmp_path / name).mkdir()
        jobs.append(Job(config, tmp_path / name, *options))
        return jobs[-1]

    yield make
    for each in jobs:
        each.end()


def wait_for_progress(job: Job, trainer: subprocess.Popen[bytes], chance: random.Random) -> None:
    """Wait until a trainer has continued the run, or sometimes only until it is starting."""
    eventually(lambda: list(job.runs.glob("killed-*/journal-*.jsonl")), LONG)
    before = max(job.records(), default=0)
    if chance.random() < 0.8:
        eventually(lambda: trainer.poll() is not None or max(job.records(), default=0) > before, LONG)
    time.sleep(chance.uniform(0.0, 1.5))


def test_a_training_killed_and_resumed_repeatedly_has_the_curves_of_an_undisturbed_one(
    job: Callable[..., Job], tmp_path: Path, figures: Callable[[object], None]
) -> None:
    undisturbed = job("undisturbed", "--telemetry-sinks", "none")
    assert undisturbed.train().wait(LONG) == 0, undisturbed.output()
    recording, tensorboard = Recording(), TensorBoard()
    backend = recording.options(tmp_path)["backend"]
    killed = job("killed", "--telemetry-sinks", "file,tensorboard", f"telemetry.file.backend={backend}")
    chance = random.Random(11)
    ends = Counter[str]()
    for target in ENDS:
        trainer = killed.train()
        wait_for_progress(killed, trainer, chance)
        assert trainer.poll() is None, killed.output()
        ends[target] += 1
        if target.startswith("SIG"):
            number = signal.Signals[target]
            os.kill(trainer.pid, number)
            assert trainer.wait(LONG) == 128 + number
            continue
        for pid in named(trainer.pid, target):
            kill(pid)
        if target == "delivery":
            # They are replaced; end the training with SIGTERM.
            os.kill(trainer.pid, signal.SIGTERM)
        trainer.wait(LONG)
    assert killed.train().wait(LONG) == 0, killed.output()
    receipt = read_receipt(killed.run)
    assert receipt.status == "finished"
    assert [sink.pending for sink in receipt.sinks] == [0, 0]
    assert killed.points() == undisturbed.points()
    records = killed.records()
    valid = set(killed.records(superseded=False))
    lines = [line.split() for line in (recording.folder / "rows").read_text().splitlines()]
    points = Counter(int(seq) for seq, _, *stream in lines if stream)
    for shown in (points, Counter(tensorboard.shown(killed.run, records))):
        assert valid <= set(shown) <= set(records)
        assert shown.total() == len(shown), "no record is duplicated"
    figures(
        f"{', '.join(f'{n} x {target}' for target, n in ends.items())}; {len(segments(killed.run))} attempts, "
        f"{len(records)} records, {len(valid)} of them valid, as in the undisturbed run; each delivered once"
    )
