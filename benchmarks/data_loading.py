"""Compare ways of loading data: memory and first iteration by number of ranks, structures per second, waiting steps.

``python benchmarks/data_loading.py FOLDER`` writes synthetic data to FOLDER (5 GB), and prints tables in Markdown. Each
row is one variant of `data_variants.py`; the variants alternate, and each is divided by aimnet's loader in the same
round.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import yaml
from data_variants import SAMPLE_MODEL, VARIANTS, Variant, overrides
from rank_jobs import Ranks, available, drop_page_cache, summarize
from synthetic_data import REFERENCES, write

from telemetry.journal.reader import JournalReader
from telemetry.records import Scalars

HERE = Path(__file__).parent
BYTES = 750
"""Memory for the arrays of a structure of 20 atoms with four labels."""
FLOOR_GB = 0.9
"""Memory of a rank without data."""
LIMIT_GB = 10.0
"""What needs more memory than this is skipped."""
BATCH = 64
ITERATIONS = 30
"""Iterations of a training, whose memory and first iteration are measured."""
LOADERS = ((64, 0), (64, 2), (256, 0), (256, 2))
"""Batch sizes and numbers of workers."""
BATCHES = {64: 600, 256: 200}
"""Batches of a measurement by batch size."""
WAITING_MS = 1.0
"""A step waits for data if it gets its batch later than this."""

Row = dict[str, Any]


class Benchmark:
    """The variants, and the data in a folder.

    Args:
        folder: Folder of the data and of the trainings.
        variants: The variants, in order.
        before: Checkout of an earlier version, for the variant ``before``.
    """

    def __init__(self, folder: Path, variants: Sequence[Variant], before: Path | None) -> None:
        self._folder = folder.resolve()
        self._variants = variants
        self._before = before
        self._sae = self._folder / "sae.yaml"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sae.write_text(yaml.safe_dump(REFERENCES))

    def data(self, variant: Variant, structures: int) -> Path:
        """Return the file of a variant, which is written unless it exists."""
        compression = "gzip" if variant.compressed else None
        path = self._folder / f"{structures}{'-gzip' if compression else ''}.h5"
        if not path.exists():
            write(path.with_suffix(".tmp"), structures, compression=compression)
            path.with_suffix(".tmp").rename(path)
        return path

    def start(self, variant: Variant, structures: int, ranks: int, rounds: int) -> list[Row]:
        """Train a few iterations with a cold page cache and no cache of the data, then with warm ones."""
        need = ranks * _memory_gb(variant, structures, ranks)
        row = {"variant": variant.name, "structures": structures, "ranks": ranks}
        if need > min(LIMIT_GB, available() - 2):
            return [{**row, "skipped": f"needs {need:.0f} GB"}]
        data, cache = self.data(variant, structures), self._cache(structures)
        shutil.rmtree(cache, ignore_errors=True)
        drop_page_cache([data])
        return [
            {**row, "warm": bool(number), **self._train(variant, data, ranks, cache)} for number in range(rounds + 1)
        ]

    def loaders(self, structures: int, rounds: int, *, steps: bool) -> list[Row]:
        """Measure the loaders of all variants that fit in memory, in turn."""
        rows: list[Row] = []
        processes: dict[str, subprocess.Popen[str]] = {}
        try:
            for variant in self._variants:
                need = _memory_gb(variant, structures)
                if need > available() - 2:
                    rows.append({"variant": variant.name, "structures": structures, "skipped": f"needs {need:.0f} GB"})
                else:
                    processes[variant.name] = self._open(variant, structures)
            for number in range(rounds):
                for batch, workers in LOADERS:
                    request = {"batch": batch, "workers": workers, "batches": BATCHES[batch], "steps": steps}
                    for name in list(processes)[:: -1 if number % 2 else 1]:
                        found = _ask(processes[name], request)
                        rows.append({"variant": name, "structures": structures, "round": number, **request, **found})
        finally:
            for process in processes.values():
                process.kill()
                process.communicate()
        return rows

    def _cache(self, structures: int) -> Path:
        return self._folder / f"cache-{structures}"

    def _environment(self, variant: Variant) -> Mapping[str, str]:
        checkout = self._before if variant.name == "before" else HERE.parent
        return {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}

    def _settings(self, variant: Variant, cache: Path) -> tuple[str, ...]:
        return (f"data.cache={cache}",) if "data.in_memory_gb=0" in variant.settings else ()

    def _open(self, variant: Variant, structures: int) -> subprocess.Popen[str]:
        job: Row = {"variant": variant.name, "data": str(self.data(variant, structures)), "sae": str(self._sae)}
        job |= {"batch": BATCH, "settings": self._settings(variant, self._cache(structures))}
        process = subprocess.Popen(
            [sys.executable, str(HERE / "data_variants.py"), "batches", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | self._environment(variant),
            text=True,
        )
        _read(process)
        return process

    def _train(self, variant: Variant, data: Path, ranks: int, cache: Path) -> Row:
        home = self._folder / "training"
        shutil.rmtree(home, ignore_errors=True)
        if variant.name == "aimnet":
            job = {"data": str(data), "sae": str(self._sae), "batch": BATCH, "iterations": ITERATIONS}
            command = [sys.executable, str(HERE / "data_variants.py"), "aimnet-rank", json.dumps(job)]
        else:
            command = [sys.executable, "-m", "aimnet2mult.cli", "train", "--model", str(SAMPLE_MODEL)]
            command += [*overrides(variant, data, BATCH), *self._settings(variant, cache), "telemetry.every=1"]
            command += [f"data.samplers.train.batches_per_epoch={ITERATIONS}", "trainer.epochs=1"]
            command += [f"telemetry.dir={home / 'runs'}"]
        with Ranks(command, ranks, home, self._environment(variant)) as job_of_ranks:
            job_of_ranks.wait(900)
            first = _first_iteration(home) - job_of_ranks.started
            samples = job_of_ranks.samples
            peak, training = (summarize(samples, after) for after in (0.0, first))
            cpu = max(each.cpu for each in samples if each.time <= first)
        return {"first_iteration_s": first, "cpu_s": cpu, "peak_mb": peak, "training_mb": training}


def _memory_gb(variant: Variant, structures: int, ranks: int = 1) -> float:
    """Return a rough upper limit of the memory of a rank."""
    # aimnet loads a share of the data on each rank.
    share = structures / ranks if variant.name == "aimnet" else structures
    return FLOOR_GB + variant.copies * share * BYTES / 1e9


def _first_iteration(home: Path) -> float:
    """Return the time of the first iteration of a training, in seconds since 1970."""
    journals = list((home / "runs").glob("*/journal-0.jsonl"))
    if not journals:
        lines = (home / "rank-0.log").read_text().splitlines()
        (found,) = (json.loads(line) for line in lines if line.startswith('{"first_iteration"'))
        return float(found["first_iteration"])
    records = JournalReader(journals[0].parent).read(10, live=False)
    return min(record.time for record in records if isinstance(record, Scalars)) / 1e3


def _ask(process: subprocess.Popen[str], request: Mapping[str, Any]) -> Row:
    assert process.stdin is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return _read(process)


def _read(process: subprocess.Popen[str]) -> Row:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a loader ended with {process.wait()}")
    found: Row = json.loads(line)
    return found


def start_table(rows: Sequence[Row]) -> str:
    """Return the table of memory and first iterations."""
    lines = [
        "| data | ranks | loader | peak memory of a rank | private | shared | while training | cold | warm | CPU |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for structures, ranks, name in dict.fromkeys((row["structures"], row["ranks"], row["variant"]) for row in rows):
        found = [row for row in rows if (row["structures"], row["ranks"], row["variant"]) == (structures, ranks, name)]
        head = f"| {structures:,} | {ranks} | {VARIANTS[name].title} |"
        if "skipped" in found[0]:
            lines.append(f"{head} {found[0]['skipped']} | | | | | | |")
            continue
        peak = max((row["peak_mb"] for row in found), key=lambda each: float(each["pss"]))
        training = max(row["training_mb"]["pss"] for row in found)
        cold = found[0]["first_iteration_s"]
        warm = median(row["first_iteration_s"] for row in found[1:])
        cpu = median(row["cpu_s"] for row in found[1:])
        cells = [f"{peak[key]:,.0f} MB" for key in ("pss", "private", "shared")]
        lines.append(f"{head} {' | '.join(cells)} | {training:,.0f} MB | {cold:.1f} s | {warm:.1f} s | {cpu:.1f} s |")
    return "\n".join(lines)


def speed_table(rows: Sequence[Row]) -> str:
    """Return the table of structures per second, relative to aimnet's loader in the same round."""
    titles = [f"batches of {batch}, {workers} workers" for batch, workers in LOADERS]
    lines = [f"| data | loader | {' | '.join(titles)} |", "|---|---|" + "---|" * len(LOADERS)]
    for structures, name in dict.fromkeys((row["structures"], row["variant"]) for row in rows):
        cells = []
        for batch, workers in LOADERS:
            speeds = [_speeds(rows, structures, each, batch, workers) for each in (name, "aimnet")]
            if not speeds[0]:
                cells.append("")
                continue
            ratios = [own / other for own, other in zip(*speeds, strict=False)]
            ratio = f" ({median(ratios):.2f})" if ratios else ""
            cells.append(f"{median(speeds[0]):,.0f}{ratio}")
        lines.append(f"| {structures:,} | {VARIANTS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _speeds(rows: Sequence[Row], structures: int, name: str, batch: int, workers: int) -> list[float]:
    key = {"structures": structures, "variant": name, "batch": batch, "workers": workers}
    found = [row for row in rows if all(row.get(field) == value for field, value in key.items())]
    return [row["structures_per_s"] for row in found]


def steps_table(rows: Sequence[Row]) -> str:
    """Return the table of steps that wait for data."""
    late_title = f"steps that wait more than {WAITING_MS:g} ms"
    lines = [f"| data | loader | batch | workers | {late_title} | median wait | p99 | longest |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    measured = [row for row in rows if "waits_ms" in row]
    for key in dict.fromkeys(map(_place, measured)):
        structures, name, batch, workers = key
        waits = sorted(wait for row in measured if _place(row) == key for wait in row["waits_ms"])
        late = sum(wait > WAITING_MS for wait in waits)
        p50, p99 = (waits[int(share * (len(waits) - 1))] for share in (0.5, 0.99))
        lines.append(
            f"| {structures:,} | {VARIANTS[name].title} | {batch} | {workers} "
            f"| {late} of {len(waits):,} ({late / len(waits):.1%}) | {p50:.2f} ms | {p99:.2f} ms | {waits[-1]:.1f} ms |"
        )
    return "\n".join(lines)


def _place(row: Row) -> tuple[int, str, int, int]:
    return row["structures"], row["variant"], row["batch"], row["workers"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--structures", type=int, multiple=True, default=(200_000, 2_000_000), show_default=True)
@click.option("--ranks", type=int, multiple=True, default=(1, 2, 4), show_default=True)
@click.option("--variant", "names", type=click.Choice(list(VARIANTS)), multiple=True, help="Default: all that exist.")
@click.option("--before", type=click.Path(path_type=Path), help="Checkout of an earlier version to compare with.")
@click.option("--part", "parts", type=click.Choice(["start", "speed", "steps"]), multiple=True, help="Default: all.")
@click.option("--rounds", default=2, show_default=True, help="Repetitions.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: FOLDER/data_loading.json.")
def main(
    *,
    folder: Path,
    structures: tuple[int, ...],
    ranks: tuple[int, ...],
    names: tuple[str, ...],
    before: Path | None,
    parts: tuple[str, ...],
    rounds: int,
    out: Path | None,
) -> None:
    """Measure, write the results as JSON, and print the tables."""
    chosen = names or tuple(name for name in VARIANTS if name != "default" and (before or name != "before"))
    benchmark = Benchmark(folder, [VARIANTS[name] for name in chosen], before and before.resolve())
    results: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "time": time.strftime("%F")}
    out = out or folder / "data_loading.json"
    tables = {"start": start_table, "speed": speed_table, "steps": steps_table}
    for part in parts or tuple(tables):
        rows: list[Row] = results.setdefault(part, [])
        for count in structures:
            if part == "start":
                for number, name in ((number, name) for number in ranks for name in chosen):
                    rows += benchmark.start(VARIANTS[name], count, number, rounds)
                    print(rows[-1], file=sys.stderr)
                    out.write_text(json.dumps(results))
            else:
                rows += benchmark.loaders(count, rounds, steps=part == "steps")
            out.write_text(json.dumps(results))
        print(f"\n{tables[part](rows)}", flush=True)


if __name__ == "__main__":
    main()
