"""Create runs and records for the TensorBoard sink, and read them back as TensorBoard shows them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sinks.tensorboard.sink import TensorBoardSink
from telemetry import Metric, RunRecord
from telemetry.sink_api import Opened, Resumed, Scalars

STARTED = 1_700_000_000_000
METRICS = {
    f"{stream}/{name}": Metric(unit=unit, label=label)
    for stream in ("train", "train_window", "val")
    for name, unit, label in (
        ("loss", "1", ""),
        ("E_rmse", "kcal/mol", "RMSE of energy"),
        ("gfn1/E_rmse", "kcal/mol", "RMSE of energy, gfn1"),
    )
    if (stream, name) != ("train", "gfn1/E_rmse")
}


class Point(NamedTuple):
    step: int
    value: float
    time: float


def make_run(run_id: str = "water", started: int = STARTED, **fields: Any) -> RunRecord:
    defaults: dict[str, Any] = {
        "seq": 0,
        "time": started,
        "schema": 1,
        "name": run_id,
        "attempt": 1,
        "every": 200,
        "metrics": METRICS,
    }
    return RunRecord(run_id=run_id, started=started, **defaults | fields)


def scalars(seq: int, step: int | None = None, stream: str = "train", **values: float) -> Scalars:
    """Return a record, by default at iteration 200·seq with a loss of 1/seq, 1001 ms after the previous one."""
    return Scalars(
        seq=seq,
        time=STARTED + 1001 * seq,
        stream=stream,
        step=200 * seq if step is None else step,
        values=values or {"loss": 1 / seq},
    )


def resumed(seq: int, step: int, attempt: int = 2) -> Resumed:
    return Resumed(seq=seq, time=STARTED + 1001 * seq, step=step, attempt=attempt)


def open_sink(
    folder: Path, run: RunRecord | None = None, options: Mapping[str, Any] | None = None
) -> tuple[TensorBoardSink, Opened]:
    sink = TensorBoardSink(TensorBoardSink.Options(**options or {}))
    return sink, sink.sink_open(run or make_run(), folder)


def curve(folder: Path, tag: str = "train/loss") -> list[Point]:
    """Return the points that EventAccumulator shows for a tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    if tag not in accumulator.Tags()["scalars"]:
        return []
    return [Point(e.step, e.value, e.wall_time) for e in accumulator.Scalars(tag)]


def steps(folder: Path, tag: str = "train/loss") -> list[int]:
    return [point.step for point in curve(folder, tag)]


def curves(folder: Path, stream: str) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of a stream in the overlay, by tag, in TensorBoard's order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard" / stream), size_guidance={"scalars": 0}).Reload()
    tags = sorted(
        accumulator.Tags()["scalars"],
        key=lambda tag: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", tag)],
    )
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))
