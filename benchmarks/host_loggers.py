"""Measure the duration of a log call of the adapters, next to the loggers of Lightning, transformers and accelerate.

``python benchmarks/host_loggers.py`` takes about three minutes and prints two tables: calls at a moderate rate, and a
call after every training step with as many torch threads as cores. The loggers take turns in blocks. A call records
six Python numbers, since Lightning and transformers convert tensors themselves, and gets what the frameworks call with
it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from telemetry import read_run

Log = Callable[[int], object]
Close = Callable[[], object]
NAMES = ("loss", "E_rmse", "F_rmse", "lr", "grad_norm", "epoch")
WIDTH = 256
"""Width of the layers of the training step, which takes about two milliseconds."""
SETTLING = 0.3
"""Seconds of idling after each block."""


@dataclass
class Logger:
    """A logger, and the durations of its blocks.

    Attributes:
        log: records a point at the step.
        close: ends the run.
        folder: its telemetry run, whose points are counted afterwards.
        calls: median duration of a call, in µs, for each block.
        iterations: mean duration of a training step with its call, in µs, for each block; it includes what threads of
            the logger take away from the step.
    """

    log: Log
    close: Close
    folder: Path | None = None
    calls: list[float] = field(default_factory=list)
    iterations: list[float] = field(default_factory=list)


def numbers(step: int) -> dict[str, float]:
    """Return what is logged at a step."""
    return {name: step + index / 7 for index, name in enumerate(NAMES)}


def create(home: Path) -> dict[str, Logger]:
    """Return the loggers by name; those of telemetry without sinks, and with that for TensorBoard."""
    found = {"no logger": Logger(lambda _: None, lambda: None)}
    for package, make in (("Lightning", _lightning), ("transformers", _transformers), ("accelerate", _accelerate)):
        for name, logger in make(home / package).items():
            found[f"{package}: {name}"] = logger
    return found


def _lightning(home: Path) -> dict[str, Logger]:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from telemetry.integrations.lightning import TelemetryLogger

    def logger(host: Any, folder: Path | None = None) -> Logger:
        def log(step: int) -> None:
            host.log_metrics(numbers(step), step)
            host.save()

        return Logger(log, lambda: host.finalize("success"), folder)

    return {
        "CSVLogger": logger(CSVLogger(home / "csv")),
        "TensorBoardLogger": logger(TensorBoardLogger(home / "tensorboard")),
        "TelemetryLogger": logger(TelemetryLogger(home / "run", sinks=[]), home / "run"),
        "TelemetryLogger, TensorBoard": logger(TelemetryLogger(home / "run-tb", sinks="tensorboard"), home / "run-tb"),
    }


def _transformers(home: Path) -> dict[str, Logger]:
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import TensorBoardCallback

    from telemetry.integrations.huggingface import TelemetryCallback

    args: Any = TrainingArguments(str(home / "checkpoints"), report_to="none", use_cpu=True)

    def logger(callback: Any, folder: Path | None = None) -> Logger:
        state, control = TrainerState(), TrainerControl()
        callback.on_train_begin(args, state, control)

        def log(step: int) -> None:
            state.global_step = step
            callback.on_log(args, state, control, logs=numbers(step))

        return Logger(log, lambda: callback.on_train_end(args, state, control), folder)

    return {
        "TensorBoardCallback": logger(TensorBoardCallback()),
        "TelemetryCallback": logger(TelemetryCallback(home / "run", sinks=[]), home / "run"),
    }


def _accelerate(home: Path) -> dict[str, Logger]:
    from accelerate import Accelerator
    from accelerate.tracking import TensorBoardTracker

    from telemetry.integrations.accelerate import TelemetryTracker

    Accelerator(cpu=True)
    board, ours = TensorBoardTracker("bench", home), TelemetryTracker(home / "run", sinks=[])
    if hasattr(board, "start"):
        board.start()
    return {
        "TensorBoardTracker": Logger(lambda step: board.log(numbers(step), step), board.finish),
        "TelemetryTracker": Logger(lambda step: ours.log(numbers(step), step), ours.finish, home / "run"),
    }


def measure(home: Path, *, threads: int, rounds: int, block: int, pause: float) -> dict[str, Logger]:
    """Run the blocks of all loggers in turn, after one round that is not counted.

    Args:
        home: a folder for all files.
        threads: number of torch threads of the training step.
        rounds: number of blocks of each logger.
        block: number of calls in a block.
        pause: seconds of idling after each step.
    """
    torch.set_num_threads(threads)
    step_once = _training_step()
    with _inside(home):
        loggers = create(home)
        for number in range(rounds + 1):
            order = list(loggers.values())
            for logger in order if number % 2 else reversed(order):
                calls, iterations = _block(
                    logger.log, step_once, range(number * block + 1, (number + 1) * block + 1), pause
                )
                if number:
                    logger.calls.append(calls)
                    logger.iterations.append(iterations)
        for logger in loggers.values():
            logger.close()
    for name, logger in loggers.items():
        if logger.folder is not None:
            curves = read_run(logger.folder).curves
            recorded = sum(len(curves[curve].steps) for curve in curves if curve.startswith("train/"))
            if recorded != (rounds + 1) * block * len(NAMES):
                print(f"{name}: {recorded} of {(rounds + 1) * block * len(NAMES)} numbers recorded")
    return loggers


def _block(log: Log, step_once: Callable[[], object], steps: range, pause: float) -> tuple[float, float]:
    """Return the median duration of a call and the mean duration of a step with its call, in µs."""
    calls, iterations = [], []
    for step in steps:
        start = time.perf_counter_ns()
        step_once()
        before = time.perf_counter_ns()
        log(step)
        end = time.perf_counter_ns()
        calls.append((end - before) / 1000)
        iterations.append((end - start) / 1000)
        if pause:
            time.sleep(pause)
    # What threads of the logger have left must not slow the next one.
    time.sleep(SETTLING)
    return median(calls), sum(iterations) / len(iterations)


def _training_step() -> Callable[[], object]:
    layers = [torch.nn.Linear(WIDTH, WIDTH), torch.nn.SiLU(), torch.nn.Linear(WIDTH, WIDTH)]
    model, batch = torch.nn.Sequential(*layers), torch.randn(WIDTH, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def step_once() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    return step_once


@contextmanager
def _inside(home: Path) -> Iterator[None]:
    """Run in the folder, where some loggers write without being asked."""
    home.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(home)
    try:
        yield
    finally:
        os.chdir(before)


def table(loggers: dict[str, Logger]) -> str:
    """Return the medians over the blocks."""
    bare = loggers["no logger"].iterations
    lines = [f"A step takes {median(bare):.0f} µs without a logger.", ""]
    lines += ["| logger | call, µs | step with call, compared with no logger, µs |", "|---|---|---|"]
    for name, logger in loggers.items():
        extra = median(here - there for here, there in zip(logger.iterations, bare, strict=True))
        lines.append(f"| {name} | {median(logger.calls):.0f} | {extra:+.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure both cases and print their tables."""
    warnings.simplefilter("ignore")
    logging.getLogger("telemetry").setLevel(logging.ERROR)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        print("One torch thread, 5 ms of idling after each step:", flush=True)
        print(table(measure(home / "idle", threads=1, rounds=5, block=100, pause=0.005)), flush=True)
        print(f"\n{cores} torch threads, a call after every step:", flush=True)
        print(table(measure(home / "busy", threads=cores, rounds=8, block=300, pause=0)), flush=True)


if __name__ == "__main__":
    main()
