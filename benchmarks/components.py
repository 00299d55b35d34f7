"""Measure the components in one process: ``due``, the error sums, the journal."""

from __future__ import annotations

import statistics
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from pooled_loss import TERMS, losses
from targets import Target, at_least, at_most
from workload import FIDELITIES, LABELS, PlainSums, built_in, make_batch

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
PER_RECORD = f"{len(NAMES)} values per record"


def measure(home: Path, factor: float) -> list[Target]:
    """Measure the components; ``factor`` scales the number of repetitions."""
    torch.set_num_threads(1)
    home.mkdir()
    appended, read = journal_rates(home, max(20_000, round(200_000 * factor)))
    return [
        at_most("`due` at an iteration that is not due", 0.1, time_due(), "µs"),
        *compare_error_sums(max(5, round(40 * factor))),
        at_least("journal: appending in batches of 1,000", 100_000, appended, "records/s", PER_RECORD),
        at_least("journal: reading and verifying checksums", 200_000, read, "records/s", PER_RECORD),
    ]


def time_due() -> float:
    """Return the time of a call in µs, excluding the loop overhead."""
    scope = {"due": Cadence(200).due, "steps": range(201, 201 + 199)}
    times = {
        code: min(timeit.repeat(f"for step in steps: {code}", globals=scope, number=500, repeat=9))
        for code in ("due('train', step)", "pass")
    }
    return (times["due('train', step)"] - times["pass"]) / (500 * 199) * 1e6


def compare_error_sums(rounds: int) -> list[Target]:
    """Compare ``ErrorSums.update`` with plain torch, in alternating blocks."""
    batch = make_batch()
    sums, plain = ErrorSums(built_in(*LABELS), len(FIDELITIES), "cpu", POOLED.quantities, loss=TERMS), PlainSums()
    functions: dict[str, Callable[[], None]] = {
        "sums": lambda: sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, losses(batch.loss)),
        "plain": lambda: plain.update(batch),
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name] += _times(function, 200)
    medians = {name: statistics.median(each) * 1e6 for name, each in times.items()}
    note = f"{medians['sums']:.1f} µs; plain torch: {medians['plain']:.1f} µs"
    try:
        with no_host_reads():
            functions["sums"]()
        reads = 0
    except HostReadError:
        reads = 1
    return [
        at_most("`ErrorSums.update` ÷ plain torch, label by label", 0.35, medians["sums"] / medians["plain"], "", note),
        at_most("`ErrorSums.update`: device reads per batch", 0, reads, ""),
    ]


def _times(function: Callable[[], None], number: int) -> list[float]:
    times = []
    for _ in range(number):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def fill(folder: Path, count: int) -> tuple[JournalWriter, float]:
    """Write a journal of ``count`` records; return the open writer and the elapsed seconds."""
    writer = JournalWriter(folder, run_record())
    values = {name: number + 0.123456789 for number, name in enumerate(NAMES)}

    def make(seq: int) -> Scalars:
        return Scalars(seq=seq, time=1_700_000_000_000 + seq, stream="train", step=200 * seq, values=values)

    start = time.perf_counter()
    for number in range(1, count + 1):
        writer.append(make)
        if number % 1000 == 0:
            writer.commit()
    if writer.pending:
        writer.commit()
    return writer, time.perf_counter() - start


def journal_rates(home: Path, count: int) -> tuple[float, float]:
    """Return the records appended and read per second; medians of three measurements."""
    appended, read = [], []
    for number in range(3):
        folder = home / f"journal-{number}"
        writer, seconds = fill(folder, count)
        writer.close()
        appended.append(count / seconds)
        reader, found = JournalReader(folder), 0
        start = time.perf_counter()
        while batch := reader.read(1000, live=False):
            found += len(batch)
        read.append(found / (time.perf_counter() - start))
        if found != count:
            raise SystemExit(f"only {found} of {count} records were read, so the rate is meaningless")
    return statistics.median(appended), statistics.median(read)
