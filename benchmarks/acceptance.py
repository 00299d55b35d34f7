"""Train on more data than should be in memory with two ranks, kill them, resume, and compare with an unbroken run.

``python benchmarks/acceptance.py FOLDER`` writes 2,000,000 synthetic structures of two fidelities to FOLDER, half of
them compressed, and prints what it has verified: the memory of each rank, every due point exactly once, and all values
and weights equal to those of a run that was not killed.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from data_variants import LABELS, SAMPLE_MODEL
from rank_jobs import Ranks, Sample
from synthetic_data import AROUND_TWENTY, TWENTY, write
from torch import Tensor

from aimnet2mult.models.envelope import take_out
from aimnet2mult.models.torch_file import load_file
from telemetry import read_run
from telemetry.journal.reader import JournalReader
from telemetry.records import Scalars

RANKS = 2
EVERY = 10
"""Iterations between points."""
EPOCHS = 3
KILLED, CHECKPOINTS = 1.55, 0.25
"""Epochs until the ranks are killed, in the middle of an epoch and not at a checkpoint, and between checkpoints."""
LIMIT_MB = 1500
"""Largest memory of a rank."""
SPEED = "it_per_s"
"""Metric that differs between equal runs."""
EPOCH, ROUNDING = "train_epoch", 1e-15
"""Stream and relative tolerance: a resume continues the sums of the epoch with their totals over the ranks, which are
rounded otherwise."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt of a run, from its start to its end or until it was killed."""

    label: str
    seconds: float
    samples: list[Sample]

    @property
    def peak_mb(self) -> float:
        """The largest memory of a rank."""
        return max(sample.pss for sample in self.samples)


def command(files: Sequence[Path], folder: Path, batches: int) -> list[str]:
    """Return the command that starts a run in a folder."""
    settings = {
        **{f"data.fidelity_datasets.{index}": path for index, path in enumerate(files)},
        "data.in_memory_gb": 0,
        "data.cache": folder.parent / "cache",
        "data.y": f"[{','.join(LABELS)}]",
        "data.val_fraction": 0.001,
        "data.samplers.train.batch_size": 64,
        "data.samplers.train.batches_per_epoch": batches,
        "trainer.epochs": EPOCHS,
        "trainer.clip_grad_value": "null",
        "trainer.clip_grad_norm": 0.3,
        "checkpoint.every_iterations": round(CHECKPOINTS * batches),
        "telemetry.every": EVERY,
        "telemetry.sinks": "none",
        "telemetry.dir": folder,
        "threads": 1,
        "device": "cpu",
    }
    train = [sys.executable, "-m", "aimnet2mult.cli", "train", "--model", str(SAMPLE_MODEL)]
    return [*train, *(f"{key}={value}" for key, value in settings.items())]


def run_attempt(label: str, start: Sequence[str], folder: Path, timeout: float, *, kill_after: int | None) -> Attempt:
    """Run the ranks to their end, or kill them with SIGKILL once the journal has a point after an iteration."""
    print(f"{label} …", flush=True)
    with Ranks(start, RANKS, folder.parent / f"logs-{folder.name}") as ranks:
        if kill_after is None:
            ranks.wait(timeout)
        else:
            while _last_step(folder) < kill_after:
                if not ranks.running() or time.time() - ranks.started > timeout:
                    ranks.wait(0)
                    raise SystemExit(f"the ranks ended before iteration {kill_after}; see {ranks.folder}")
                time.sleep(0.05)
            ranks.kill()
        return Attempt(label=label, seconds=time.time() - ranks.started, samples=ranks.samples)


def find_run(folder: Path) -> Path:
    """Return the only run in a folder."""
    (run,) = (path for path in folder.iterdir() if (path / "journal-0.jsonl").exists())
    return run


def check_points(run: Path, batches: int) -> str:
    """Check that the valid points of the journal are all due points, each exactly once; return a summary.

    Raises:
        SystemExit: Points are missing or repeated.
    """
    records = JournalReader(run).read(1_000_000, live=False)
    points = Counter((record.stream, record.step) for record in records if isinstance(record, Scalars))
    due = {("train", step) for step in range(EVERY, EPOCHS * batches + 1, EVERY)}
    due |= {("val", epoch * batches) for epoch in range(1, EPOCHS + 1)}
    repeated = {point: number for point, number in points.items() if number > 1}
    if repeated or due - set(points):
        raise SystemExit(f"{run}: missing points {sorted(due - set(points))}; repeated points {repeated}")
    return f"{len(points)} points, each exactly once, among them all {len(due)} due ones"


def compare(run: Path, other: Path) -> str:
    """Check that all values and the last checkpoints of two runs are equal bit for bit; return a summary.

    Raises:
        SystemExit: They differ.
    """
    curves, others = (
        {n: c for n, c in read_run(r).curves.items() if not n.endswith(f"/{SPEED}")} for r in (run, other)
    )
    wrong = sorted(curves.keys() ^ others.keys())
    for name in curves.keys() & others.keys():
        tolerance = ROUNDING if name.startswith(EPOCH) else 0.0
        ours, theirs = curves[name], others[name]
        same_values = np.allclose(ours.values, theirs.values, rtol=tolerance, atol=0, equal_nan=True)
        if not np.array_equal(ours.steps, theirs.steps) or not same_values:
            wrong.append(name)
    state, other_state = (_state(each) for each in (run, other))
    wrong += sorted(state.keys() ^ other_state.keys())
    wrong += [key for key in state.keys() & other_state.keys() if not _equal(state[key], other_state[key])]
    if wrong:
        raise SystemExit(f"{run} and {other} differ: {', '.join(wrong)}")
    values = sum(map(len, curves.values()))
    return (
        f"{values:,} values and {len(state)} entries of the last checkpoint equal bit for bit, those of {EPOCH} within "
        f"{ROUNDING:g}"
    )


def draw(attempts: Sequence[Attempt], path: Path, title: str) -> None:
    """Draw the memory of each rank over the attempts of a run."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    begin = 0.0
    for number, attempt in enumerate(attempts):
        for rank, color in enumerate(("#1f6f8b", "#c8963e")):
            samples = [sample for sample in attempt.samples if sample.rank == rank]
            axes.plot(
                [begin + sample.time for sample in samples],
                [sample.pss for sample in samples],
                color=color,
                label=None if number else f"rank {rank}",
            )
        axes.annotate(attempt.label, (begin, LIMIT_MB), xytext=(4, 4), textcoords="offset points", fontsize=8)
        begin += attempt.seconds
        if number < len(attempts) - 1:
            axes.axvline(begin, color="#b03a2e", linewidth=1, label="SIGKILL")
    axes.axhline(LIMIT_MB, color="black", linewidth=1, linestyle="dashed", label="limit")
    axes.set_ylim(0, 1.15 * max(LIMIT_MB, *(attempt.peak_mb for attempt in attempts)))
    axes.set_xlim(0, begin)
    axes.set_xlabel("time, s")
    axes.set_ylabel("memory of a rank (PSS), MB")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="center right")
    figure.savefig(path, dpi=110)


def _last_step(folder: Path) -> int:
    journals = list(folder.glob("*/journal-0.jsonl"))
    if not journals:
        return 0
    records = JournalReader(journals[0].parent).read(1_000_000, live=True)
    return max((record.step for record in records if isinstance(record, Scalars)), default=0)


def _state(run: Path) -> dict[str, Any]:
    """Return everything in the last checkpoint that a resume restores, by its place."""
    last = max(run.glob("checkpoints/step-*.pt"), key=lambda path: int(path.stem.rpartition("-")[2]))
    content = take_out(load_file(last))
    return dict(_leaves({key: content[key] for key in ("parts", "random", "position")}, ""))


def _leaves(tree: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{place}.{key}")
    else:
        yield place.lstrip("."), tree


def _equal(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else np.array_equal(first, second)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--structures", default=2_000_000, show_default=True)
@click.option("--batches", default=400, show_default=True, help=f"Batches of each of the {EPOCHS} epochs.")
@click.option("--timeout", default=1200.0, show_default=True, help="Seconds per attempt.")
@click.option("--figure", type=click.Path(path_type=Path), help="Default: FOLDER/memory.png.")
def main(*, folder: Path, structures: int, batches: int, timeout: float, figure: Path | None) -> None:
    """Run the acceptance test; the exit code is 1 if anything is wrong."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "fid0.h5", folder / "fid1.h5"]
    for index, path in enumerate(files):
        if not path.exists():
            print(f"writing {path} …", flush=True)
            options: dict[str, Any] = {"chains": AROUND_TWENTY, "compression": "gzip"} if index else {"chains": TWENTY}
            write(path, structures // 2, fidelity=index, **options)
    killed, unbroken = folder / "killed", folder / "unbroken"
    first = run_attempt("started", command(files, killed, batches), killed, timeout, kill_after=round(KILLED * batches))
    resume = [sys.executable, "-m", "aimnet2mult.cli", "train", "--resume", str(find_run(killed))]
    second = run_attempt("resumed", resume, killed, timeout, kill_after=None)
    third = run_attempt("unbroken run", command(files, unbroken, batches), unbroken, timeout, kill_after=None)
    attempts = (first, second, third)
    (folder / "acceptance.json").write_text(json.dumps([asdict(attempt) for attempt in attempts]))
    size = sum(path.stat().st_size for path in files) / 1e9
    title = f"Two ranks, {structures:,} structures ({size:.1f} GB), killed and resumed"
    draw(attempts[:2], figure or folder / "memory.png", title)
    print(check_points(find_run(killed), batches))
    print(compare(find_run(killed), find_run(unbroken)))
    for attempt in attempts:
        print(f"{attempt.label}: {attempt.seconds:.0f} s, at most {attempt.peak_mb:,.0f} MB per rank")
    if max(attempt.peak_mb for attempt in attempts) > LIMIT_MB:
        raise SystemExit(f"a rank needed more than {LIMIT_MB:,} MB")


if __name__ == "__main__":
    main()
