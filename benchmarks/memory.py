"""Targets of memory: of the trainer, and of the delivery processes beside what their SDKs take by themselves.

As a program, ``python benchmarks/memory.py JSON``, it is one of the processes that are measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SINKS = ("tensorboard", "wandb", "mlflow")
POINTS = 2_000
"""Due points of each of the trainer's two halves."""
PER_POINT = 10
"""Batches between them."""


def rows(home: Path, where: Any, factor: float) -> list[Any]:
    """Measure them."""
    from target import at_most

    home.mkdir()
    there = where.where("healthy", "memory")
    points = max(200, round(POINTS * factor))
    job = {"what": "trainer", "home": str(home), "where": there, "points": points}
    told = _child(job)
    blank = _child({"what": "blank", "home": str(home)})["rss"]
    note = f"{points:,} points, {points * PER_POINT:,} batches"
    targets = [
        at_most("memory of the trainer, with three sinks", 20, told["half"] - told["before"], "MB more", note),
        at_most("memory of the trainer, after as much again", 1, told["whole"] - told["half"], "MB more"),
    ]
    for sink in SINKS:
        sdk = _child({"what": sink, "home": str(home), "where": there})["rss"] - blank
        beside = told["workers"][sink] - sdk
        note = f"{told['workers'][sink]:.0f} MB, of which its SDK takes {sdk:.0f} in a plain loop"
        targets.append(at_most(f"memory of the delivery process, {sink}", 40, beside, "MB beside its SDK", note))
    return targets


def _child(job: dict[str, Any]) -> dict[str, Any]:
    home = Path(job["home"]) / job["what"]
    home.mkdir()
    env = os.environ | {"WANDB_SILENT": "true"}
    command = [sys.executable, __file__, json.dumps(job | {"home": str(home)})]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env, timeout=300, cwd=home).stdout
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told


def rss(pid: int | str = "self") -> float:
    """Give the resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} has ended")


def trainer(home: Path, where: dict[str, str], points: int) -> dict[str, Any]:
    """Train with three sinks; give the memory before, after a half and after all, and that of the deliveries."""
    import ignite.engine  # noqa: F401 - it belongs to the trainer in any case
    import torch
    from batches import FIDELITIES, LABELS, Step

    torch.set_num_threads(1)
    step = Step()
    for _ in range(200):
        batch = step()
    before = rss()
    import ours
    from ignite.engine import Events

    bus = ours.open_bus(home / "run", SINKS, where, PER_POINT)
    sums = ours.ErrorSums(LABELS, len(FIDELITIES), "cpu", ours.POOLED.quantities)
    reporter = ours.Reporter(
        bus, train_sums=sums, val_sums=sums, labels=LABELS, fidelity_names=FIDELITIES, optimizer=step.optimizer
    )
    loop = ours.Loop(2 * points * PER_POINT)
    reporter.attach(loop)
    ours.await_start(home / "run", SINKS, lambda state: state == "delivering")
    seen = []
    for _ in range(2):
        for _ in range(points * PER_POINT):
            sums.update(batch.pred, batch.true, batch.numbers, batch.fidelity, batch.loss)
            loop.state.iteration += 1
            loop.state.grad_norm = batch.loss
            loop.fire(Events.ITERATION_COMPLETED)
        bus.drain(120)
        seen.append(rss())
    workers = dict(zip(SINKS, (rss(pid) for pid in _workers()), strict=True))
    bus.close(timeout=60)
    return {"before": before, "half": seen[0], "whole": seen[1], "workers": workers}


def _workers() -> list[int]:
    """Give the delivery processes, in the order in which they were started."""
    import ours

    return sorted(
        (pid for pid in ours.children() if b"telemetry.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()),
        key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]),
    )


def sdk(name: str, home: Path, where: dict[str, str]) -> float:
    """Give the memory of a process in which an SDK has logged some points."""
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

        client = mlflow.MlflowClient(where["mlflow"])
        run = client.create_run(client.get_experiment_by_name(where["experiment"]).experiment_id)
        for step in range(20):
            client.log_batch(run.info.run_id, [Metric(key, value, step, step) for key, value in values.items()])
    return rss()


def main() -> None:
    """Be what the job asks for; print the figures as the last line."""
    job = json.loads(sys.argv[1])
    home = Path(job["home"])
    if job["what"] == "trainer":
        told = trainer(home, job["where"], job["points"])
    elif job["what"] == "blank":
        told = {"rss": rss()}
    else:
        told = {"rss": sdk(job["what"], home, job["where"])}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
