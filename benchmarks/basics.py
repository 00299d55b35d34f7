"""Targets that one process can measure by itself: ``due``, the error sums, the journal."""

from __future__ import annotations

import statistics
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from batches import FIDELITIES, LABELS, PlainSums, make_batch
from target import Target, at_least, at_most

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "lib")]

from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.metrics.statistics import POOLED
from support.host_reads import HostReadError, no_host_reads
from telemetry.cadence import Cadence
from telemetry.journal.reader import JournalReader
from telemetry.journal.writer import JournalWriter
from telemetry.records import Scalars
from telemetry.testing import run_record

NAMES = ("loss", "E_rmse", "F_rmse", "q_rmse", "s_rmse", "lr")


def rows(home: Path, factor: float) -> list[Target]:
    """Measure them."""
    torch.set_num_threads(1)
    home.mkdir()
    appended, read = journal_rates(home, max(20_000, round(200_000 * factor)))
    return [
        at_most("`due` at an iteration that is not", 0.1, due(), "µs"),
        *error_sums(max(5, round(40 * factor))),
        at_least("journal: appended in batches of 1,000", 100_000, appended, "records/s", "6 values each"),
        at_least("journal: read and checked", 200_000, read, "records/s", "6 values each"),
    ]


def due() -> float:
    """Give the µs of a call, without those of the loop around it."""
    scope = {"due": Cadence(200).due, "steps": range(201, 201 + 199)}
    times = {
        code: min(timeit.repeat(f"for step in steps: {code}", globals=scope, number=500, repeat=9))
        for code in ("due('train', step)", "pass")
    }
    return (times["due('train', step)"] - times["pass"]) / (500 * 199) * 1e6


def error_sums(rounds: int) -> list[Target]:
    """Compare the update with plain torch, in turns."""
    batch = make_batch()
    sums, plain = ErrorSums(LABELS, len(FIDELITIES), "cpu", POOLED.quantities), PlainSums()
    functions: dict[str, Callable[[], None]] = {
        "sums": lambda: sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, batch.loss),
        "plain": lambda: plain.update(batch),
    }
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            taken[name] += _times(function, 200)
    medians = {name: statistics.median(times) * 1e6 for name, times in taken.items()}
    note = f"{medians['sums']:.1f} µs where plain torch takes {medians['plain']:.1f}"
    try:
        with no_host_reads():
            functions["sums"]()
        reads = 0
    except HostReadError:
        reads = 1
    return [
        at_most("`ErrorSums.update` ÷ plain torch, label by label", 0.6, medians["sums"] / medians["plain"], "", note),
        at_most("`ErrorSums.update`: reads on the host", 0, reads, "of a batch"),
    ]


def _times(function: Callable[[], None], number: int) -> list[float]:
    times = []
    for _ in range(number):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return times


def fill(folder: Path, count: int) -> tuple[JournalWriter, float]:
    """Write a journal of ``count`` records; give the writer, open, and the seconds."""
    writer = JournalWriter(folder, run_record())
    values = {name: number + 0.123456789 for number, name in enumerate(NAMES)}

    def make(seq: int) -> Scalars:
        return Scalars(seq=seq, time=1_700_000_000_000 + seq, stream="train", step=200 * seq, values=values)

    began = time.perf_counter()
    for number in range(1, count + 1):
        writer.append(make)
        if number % 1000 == 0:
            writer.commit()
    if writer.pending:
        writer.commit()
    return writer, time.perf_counter() - began


def journal_rates(home: Path, count: int) -> tuple[float, float]:
    """Give the records a second that are appended and that are read; medians of three."""
    appended, read = [], []
    for number in range(3):
        folder = home / f"journal-{number}"
        writer, seconds = fill(folder, count)
        writer.close()
        appended.append(count / seconds)
        reader, found = JournalReader(folder), 0
        began = time.perf_counter()
        while batch := reader.read(1000, live=False):
            found += len(batch)
        read.append(found / (time.perf_counter() - began))
        if found != count:
            raise SystemExit(f"{found} of {count} records were read: the rate means nothing")
    return statistics.median(appended), statistics.median(read)
