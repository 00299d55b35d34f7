"""Measure the memory of the trainer, and of the delivery processes excluding their SDKs.

``python benchmarks/memory.py JSON`` runs one of the measured processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

SINKS = ("tensorboard", "wandb", "mlflow")
POINTS = 2_000
"""Due points in each half of the training."""
BATCHES_PER_POINT = 10
POINTS_PER_FLUSH = 10
"""Points after which training waits for the journal: points of a real training are seconds apart, so few are queued."""


def measure(home: Path, backends: Any, factor: float) -> list[Any]:
    """Measure the memory; ``factor`` scales the number of points."""
    # Not at the top level, so that the measured processes do not import it.
    from targets import at_most

    home.mkdir()
    destination = backends.destination("healthy", "memory")
    points = max(200, round(POINTS * factor))
    job = {"role": "trainer", "home": str(home), "destination": destination, "points": points}
    trainer = _run_process(job)
    bare = _run_process({"role": "bare", "home": str(home)})["rss"]
    note = f"{points:,} points, {points * BATCHES_PER_POINT:,} batches"
    start, half, end = trainer["start"], trainer["half"], trainer["end"]
    found = [
        at_most("additional memory of the trainer with three sinks", 20, half - start, "MB", note),
        at_most("memory growth of the trainer in the second half", 1, end - half, "MB"),
    ]
    for sink in SINKS:
        sdk = _run_process({"role": sink, "home": str(home), "destination": destination})["rss"] - bare
        total = trainer["workers"][sink]
        note = f"{total:.0f} MB in total, {sdk:.0f} MB for the SDK in a plain loop"
        found.append(at_most(f"memory of the delivery process without its SDK, {sink}", 40, total - sdk, "MB", note))
    return found


def _run_process(job: dict[str, Any]) -> dict[str, Any]:
    home = Path(job["home"]) / job["role"]
    home.mkdir()
    env = os.environ | {"WANDB_SILENT": "true"}
    command = [sys.executable, __file__, json.dumps(job | {"home": str(home)})]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env, timeout=300, cwd=home).stdout
    figures: dict[str, Any] = json.loads(out.splitlines()[-1])
    return figures


def rss(pid: int | str = "self") -> float:
    """Return the resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} has ended")


def train(home: Path, destination: dict[str, str], points: int) -> dict[str, Any]:
    """Train with three sinks; return the memory at the start, halfway and at the end, and of each delivery process."""
    # Part of the trainer, with or without telemetry; of its own modules, only those that do not import telemetry.
    import h5py  # noqa: F401
    import ignite.engine  # noqa: F401
    import torch
    import yaml  # noqa: F401
    from workload import FIDELITIES, LABELS, TrainingStep, built_in

    from aimnet2mult.models.quiet_warp import init_warp

    init_warp()
    torch.set_num_threads(1)
    step = TrainingStep()
    for _ in range(200):
        batch = step()
    start = rss()
    import telemetry_runs
    from ignite.engine import Engine, Events
    from pooled_loss import TERMS, losses

    from aimnet2mult.metrics.error_sums import ErrorSums
    from aimnet2mult.metrics.statistics import POOLED
    from aimnet2mult.train.reporter import Reporter

    bus = telemetry_runs.open_bus(home / "run", SINKS, destination, BATCHES_PER_POINT)
    sums = ErrorSums(built_in(*LABELS), len(FIDELITIES), "cpu", POOLED.quantities, loss=TERMS)
    reporter = Reporter(
        bus,
        train_sums=sums,
        labels=built_in(*LABELS),
        fidelity_names=FIDELITIES,
        optimizer=step.optimizer,
    )
    engine = telemetry_runs.MinimalEngine(2 * points * BATCHES_PER_POINT)
    reporter.attach(cast("Engine", engine))
    telemetry_runs.await_deliveries(home / "run", SINKS, lambda state: state == "delivering")
    measured = []
    for _ in range(2):
        for number in range(points * BATCHES_PER_POINT):
            sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, losses(batch.loss))
            engine.state.iteration += 1
            engine.state.grad_norm = batch.loss
            engine.fire(Events.ITERATION_COMPLETED)
            if number % (BATCHES_PER_POINT * POINTS_PER_FLUSH) == 0:
                bus.flush()
        bus.drain(120)
        measured.append(rss())
    workers = dict(zip(SINKS, (rss(pid) for pid in _workers()), strict=True))
    bus.close(timeout=60)
    return {"start": start, "half": measured[0], "end": measured[1], "workers": workers}


def _workers() -> list[int]:
    """Return the process IDs of the delivery processes in the order of their start."""
    import telemetry_runs

    return sorted(
        (
            pid
            for pid in telemetry_runs.child_processes()
            if b"telemetry.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ),
        key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]),
    )


def log_with_sdk(name: str, home: Path, destination: dict[str, str]) -> float:
    """Log points with an SDK; return the memory of the process in MB."""
    values = {f"train/m{number}": 0.5 for number in range(6)}
    if name == "tensorboard":
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        writer = EventFileWriter(str(home))
        for step in range(1000):
            summary = [Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
            writer.add_event(Event(step=step, summary=Summary(value=summary)))
        writer.flush()
    elif name == "wandb":
        import wandb

        run = wandb.init(mode="offline", dir=str(home), settings=wandb.Settings(console="off"))
        for _ in range(1000):
            run.log(values)
    else:
        import mlflow
        from mlflow.entities import Metric

        client: Any = mlflow.MlflowClient(destination["mlflow"])
        run_id = client.create_run(client.get_experiment_by_name(destination["experiment"]).experiment_id).info.run_id
        for step in range(20):
            client.log_batch(run_id, [Metric(key, value, step, step) for key, value in values.items()])
    return rss()


def main() -> None:
    """Run the process described by the job; print its figures in the last line."""
    job = json.loads(sys.argv[1])
    home = Path(job["home"])
    if job["role"] == "trainer":
        figures = train(home, job["destination"], job["points"])
    elif job["role"] == "bare":
        figures = {"rss": rss()}
    else:
        figures = {"rss": log_with_sdk(job["role"], home, job["destination"])}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
