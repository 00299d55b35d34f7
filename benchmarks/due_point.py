"""What a due point costs the training thread: through the bus, and through TensorBoard's own writers.

    python benchmarks/due_point.py

Each variant publishes five scalars at each of 2,000 due points, 2 ms apart, in one process, one variant after the
other, three rounds. Printed are the median and the 99th percentile of a call in µs over all rounds, and the median as a
ratio to that of the bus without sinks. What was written is read back: a variant that lost points ends the benchmark.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from telemetry import Metric, Settings, open_run

POINTS = 2_000
ROUNDS = 3
GAP = 0.002
NAMES = ("loss", "E_rmse", "F_rmse", "q_rmse", "s_rmse")

Publish = Callable[[int, dict[str, float]], None]


@contextmanager
def through_the_bus(folder: Path, sinks: tuple[str, ...]) -> Iterator[Publish]:
    metrics = {f"train/{name}": Metric() for name in NAMES}
    with open_run(folder / "run", metrics=metrics, settings=Settings(sinks=sinks, every=1)) as bus:
        yield lambda step, values: bus.publish("train", step, values)


@contextmanager
def without_sinks(folder: Path) -> Iterator[Publish]:
    with through_the_bus(folder, ()) as publish:
        yield publish


@contextmanager
def with_tensorboard(folder: Path) -> Iterator[Publish]:
    with through_the_bus(folder, ("tensorboard",)) as publish:
        yield publish


@contextmanager
def summary_writer(folder: Path) -> Iterator[Publish]:
    writer = SummaryWriter(str(folder))

    def publish(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"train/{name}", value, step)

    yield publish
    writer.close()


VARIANTS = {
    "bus, no sink": without_sinks,
    "bus, tensorboard": with_tensorboard,
    "SummaryWriter.add_scalar": summary_writer,
}


def measure(variant: Callable[[Path], object], folder: Path) -> list[float]:
    """Give the time of each call in µs."""
    times = []
    values = dict.fromkeys(NAMES, 1.25)
    with variant(folder) as publish:  # type: ignore[attr-defined]
        for step in range(1, POINTS + 1):
            began = time.perf_counter()
            publish(step, values)
            times.append((time.perf_counter() - began) * 1e6)
            time.sleep(GAP)
    return times


def kept(folder: Path) -> int | None:
    """Give how many points TensorBoard shows; None where none were meant for it."""
    files = list(folder.rglob("*tfevents*"))
    if not files:
        return None
    accumulator = EventAccumulator(str(files[0].parent), size_guidance={"scalars": 0})
    accumulator.Reload()
    return len(accumulator.Scalars("train/loss"))


def main() -> None:
    """Run all variants and print the table."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("aimnet2mult", "torch", "tensorboard"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {packages}")
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(ROUNDS):
        for name, variant in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                times[name] += measure(variant, Path(folder))
                if kept(Path(folder)) not in {None, POINTS}:
                    sys.exit(f"{name} kept {kept(Path(folder))} of {POINTS} points: its times mean nothing")
    base = statistics.median(times["bus, no sink"])
    print(f"{'':28}{'median':>10}{'p99':>10}{'ratio':>8}")
    for name, taken in times.items():
        median, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
        print(f"{name:28}{median:>10.1f}{p99:>10.1f}{median / base:>8.2f}")


if __name__ == "__main__":
    main()
