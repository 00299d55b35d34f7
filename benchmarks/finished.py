"""Targets of a finished run: how long its delivery takes, beside the same points logged by each SDK in a plain loop.

As a program, ``python benchmarks/finished.py JSON``, it is such a loop.
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
WANTED = {"tensorboard": 3, "mlflow": 60, "wandb": 15}
LOOPS = {"tensorboard": "SummaryWriter.add_scalar", "mlflow": "log_batch for each point", "wandb": "run.log"}
SHARE = 40
"""Of the points, MLflow's loop is given one in so many; its time is multiplied."""
NAMES = ("loss", "E_rmse", "F_rmse", "q_rmse", "s_rmse", "lr")


def rows(home: Path, where: Any, factor: float) -> list[Any]:
    """Measure them."""
    from target import Target

    home.mkdir()
    count = max(1000, round(COUNT * min(1.0, factor)))
    targets = []
    for sink, wanted in WANTED.items():
        there = where.where("healthy", f"finished-{sink}")
        folder = home / sink
        _write_run(folder / "run", count)
        ours = _deliver(folder, sink, there, count, where)
        loop = _loop(folder / "loop", sink, there, count)
        note = f"{ours / loop:.2f} of {LOOPS[sink]}, {loop:.1f} s"
        what = f"delivery of a finished run of {count:,} points of {len(NAMES)} metrics, {sink}"
        targets.append(Target(what, f"≤ {wanted} s", f"{ours:.1f} s ({note})", ours <= wanted))
    return targets


def _write_run(folder: Path, count: int) -> None:
    from telemetry.journal.writer import JournalWriter
    from telemetry.records import Closed, Scalars
    from telemetry.testing import run_record

    writer = JournalWriter(folder, run_record(folder.parent.name))
    for number in range(1, count + 1):
        values = {name: number * 0.001 + k for k, name in enumerate(NAMES)}
        writer.append(
            lambda seq, values=values, number=number: Scalars(
                seq=seq, time=_time(number), stream="train", step=200 * number, values=values
            )
        )
    writer.append(lambda seq: Closed(seq=seq, time=_time(count), status="finished"))
    writer.commit()
    writer.close()


def _time(number: int) -> int:
    return 1_700_000_000_000 + 2000 * number


def _deliver(folder: Path, sink: str, there: dict[str, str], count: int, where: Any) -> float:
    from readback import shown

    options = {
        "wandb": ["-o", "wandb.mode=offline"],
        "mlflow": ["-o", f"mlflow.tracking_uri={there['mlflow']}", "-o", f"mlflow.experiment={there['experiment']}"],
    }
    command = [sys.executable, "-m", "telemetry", "sync", str(folder / "run"), "--telemetry-sinks", sink]
    seconds = _seconds([*command, *options.get(sink, [])])
    found = shown(sink, folder, there["experiment"], where)
    if found != count:
        raise SystemExit(f"{sink} shows {found} of {count} points: the time means nothing")
    return seconds


def _loop(home: Path, sink: str, there: dict[str, str], count: int) -> float:
    home.mkdir()
    share = SHARE if sink == "mlflow" else 1
    job = {"sink": sink, "home": str(home), "where": there, "count": count // share}
    return float(_output([sys.executable, __file__, json.dumps(job)]).splitlines()[-1]) * share


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    _output(command)
    return time.perf_counter() - began


def _output(command: list[str]) -> str:
    env = os.environ | {"WANDB_SILENT": "true"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env, timeout=600).stdout


def main() -> None:
    """Log points by an SDK; print the seconds that this took, without its import and its start."""
    job = json.loads(sys.argv[1])
    points = (
        ({f"train/{name}": number * 0.001 + k for k, name in enumerate(NAMES)}, number)
        for number in range(1, job["count"] + 1)
    )
    log, close = LOGS[job["sink"]](Path(job["home"]), job["where"])
    began = time.perf_counter()
    for values, number in points:
        log(values, number)
    close()
    print(f"\n{time.perf_counter() - began}")


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


def _mlflow(_: Path, where: dict[str, str]) -> tuple[Log, Close]:
    import mlflow
    from mlflow.entities import Metric

    client = mlflow.MlflowClient(where["mlflow"])
    run = client.create_run(client.get_experiment_by_name(where["experiment"]).experiment_id)

    def log(values: dict[str, float], number: int) -> None:
        metrics = [Metric(name, value, _time(number), 200 * number) for name, value in values.items()]
        client.log_batch(run.info.run_id, metrics)

    return log, lambda: None


LOGS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}

if __name__ == "__main__":
    main()
