"""Measure the delivery of a finished run, and compare it with a plain loop that logs the same points with the SDK.

``python benchmarks/delivery_time.py JSON`` runs such a loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Log = Callable[[dict[str, float], int], None]
Close = Callable[[], None]

COUNT = 20_000
LIMITS = {"tensorboard": 3, "mlflow": 60, "wandb": 15}
"""Target for each sink, in seconds."""
LOOPS = {"tensorboard": "SummaryWriter.add_scalar", "mlflow": "log_batch per point", "wandb": "run.log"}
"""The SDK function called in the plain loop."""
MLFLOW_SHARE = 40
"""The MLflow loop logs only every 40th point; its time is multiplied by this number."""
NAMES = ("loss", "E_rmse", "F_rmse", "q_rmse", "s_rmse", "lr")


def measure(home: Path, backends: Any, factor: float) -> list[Any]:
    """Measure the delivery to each sink; ``factor`` scales the number of points, up to 1."""
    # Not at the top level, so that the measured loops do not import it.
    from targets import Target

    home.mkdir()
    count = max(1000, round(COUNT * min(1.0, factor)))
    found = []
    for sink, limit in LIMITS.items():
        destination = backends.destination("healthy", f"finished-{sink}")
        folder = home / sink
        _write_run(folder / "run", count)
        delivery = _deliver(folder, sink, destination, count, backends)
        loop = _run_loop(folder / "loop", sink, destination, count)
        note = f"{delivery / loop:.2f} times {LOOPS[sink]}, {loop:.1f} s"
        quantity = f"delivery of a finished run with {count:,} points of {len(NAMES)} metrics, {sink}"
        found.append(Target(quantity, f"≤ {limit} s", f"{delivery:.1f} s ({note})", delivery <= limit))
    return found


def _write_run(folder: Path, count: int) -> None:
    from telemetry.journal.writer import JournalWriter
    from telemetry.records import Closed, Scalars
    from telemetry.testing import run_record

    writer = JournalWriter(folder, run_record(folder.parent.name))

    def append(number: int) -> None:
        values = {name: number * 0.001 + k for k, name in enumerate(NAMES)}
        writer.append(
            lambda seq: Scalars(seq=seq, time=_time(number), stream="train", step=200 * number, values=values)
        )

    for number in range(1, count + 1):
        append(number)
    writer.append(lambda seq: Closed(seq=seq, time=_time(count), status="finished"))
    writer.commit()
    writer.close()


def _time(number: int) -> int:
    return 1_700_000_000_000 + 2000 * number


def _deliver(folder: Path, sink: str, destination: dict[str, str], count: int, backends: Any) -> float:
    from readback import count_points

    options = {
        "wandb": ["-o", "wandb.mode=offline"],
        "mlflow": [
            *("-o", f"mlflow.tracking_uri={destination['mlflow']}"),
            *("-o", f"mlflow.experiment={destination['experiment']}"),
        ],
    }
    command = [sys.executable, "-m", "telemetry", "sync", str(folder / "run"), "--telemetry-sinks", sink]
    seconds = _seconds([*command, *options.get(sink, [])])
    found = count_points(sink, folder, destination["experiment"], backends)
    if found != count:
        raise SystemExit(f"{sink} has {found} of {count} points, so the time is meaningless")
    return seconds


def _run_loop(home: Path, sink: str, destination: dict[str, str], count: int) -> float:
    home.mkdir()
    share = MLFLOW_SHARE if sink == "mlflow" else 1
    job = {"sink": sink, "home": str(home), "destination": destination, "count": count // share}
    return float(_output([sys.executable, __file__, json.dumps(job)]).splitlines()[-1]) * share


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    _output(command)
    return time.perf_counter() - start


def _output(command: list[str]) -> str:
    env = os.environ | {"WANDB_SILENT": "true"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env, timeout=600).stdout


def main() -> None:
    """Log points with an SDK; print the elapsed seconds, excluding its import and initialization."""
    job = json.loads(sys.argv[1])
    points = (
        ({f"train/{name}": number * 0.001 + k for k, name in enumerate(NAMES)}, number)
        for number in range(1, job["count"] + 1)
    )
    log, close = LOGS[job["sink"]](Path(job["home"]), job["destination"])
    start = time.perf_counter()
    for values, number in points:
        log(values, number)
    close()
    print(f"\n{time.perf_counter() - start}")


def _tensorboard(home: Path, _: dict[str, str]) -> tuple[Log, Close]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(home))

    def log(values: dict[str, float], number: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, 200 * number)

    return log, writer.close


def _wandb(home: Path, _: dict[str, str]) -> tuple[Log, Close]:
    import wandb

    run = wandb.init(mode="offline", dir=str(home), settings=wandb.Settings(console="off"))

    def close() -> None:
        run.finish()
        wandb.teardown()

    return lambda values, number: run.log(values, step=200 * number), close


def _mlflow(_: Path, destination: dict[str, str]) -> tuple[Log, Close]:
    import mlflow
    from mlflow.entities import Metric

    client: Any = mlflow.MlflowClient(destination["mlflow"])
    run = client.create_run(client.get_experiment_by_name(destination["experiment"]).experiment_id)

    def log(values: dict[str, float], number: int) -> None:
        metrics = [Metric(name, value, _time(number), 200 * number) for name, value in values.items()]
        client.log_batch(run.info.run_id, metrics)

    return log, lambda: None


LOGS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}

if __name__ == "__main__":
    main()
