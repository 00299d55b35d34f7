"""Start an example of another framework with three sinks, kill it, and read its curves back from the backends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SINKS = "wandb,tensorboard,mlflow"
# The n-th call of HostRun.log kills the process; 0 for none.
_START = """
import os, runpy, signal, sys
from telemetry.integrations.host_run import HostRun
script, last = sys.argv[1], int(sys.argv[2])
record, calls = HostRun.log, 0
def log(*args, **kwargs):
    global calls
    calls += 1
    if calls == last:
        # What was logged so far is durable, so that the number of points is known.
        args[0].flush()
        os.kill(os.getpid(), signal.SIGKILL)
    record(*args, **kwargs)
HostRun.log = log
runpy.run_path(script, run_name="__main__")
"""


def run_example(example: Path, folder: Path, *, kill_at: int = 0) -> None:
    """Run an example in a folder with three sinks; with ``kill_at``, until that call of ``HostRun.log``."""
    script = folder / example.name
    text = example.read_text(encoding="utf-8")
    assert text.count('sinks="tensorboard"') == 1
    script.write_text(text.replace('sinks="tensorboard"', f'sinks="{SINKS}"'), encoding="utf-8")
    environment = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-c", _START, str(script), str(kill_at)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == (-signal.SIGKILL if kill_at else 0), done.stderr[-3000:]


def wandb_points(run: Path) -> list[tuple[str, int, float]]:
    """Return (name, step, value) of the points that W&B has, ordered."""
    from support import wandb_kit

    return _ordered((p.name, p.step, p.value) for p in wandb_kit.points(wandb_kit.rows(run), {}))


def tensorboard_points(run: Path) -> list[tuple[str, int, float]]:
    """Return (name, step, value) of the points that TensorBoard shows, ordered."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return _ordered((tag, event.step, event.value) for tag in tags for event in events.Scalars(tag))


def mlflow_points(run: Path) -> list[tuple[str, int, float]]:
    """Return (name, step, value) of the points that MLflow has, ordered."""
    from support import mlflow_kit

    client = mlflow_kit.client_of(f"sqlite:///{run.parent / 'mlflow.db'}")
    return _ordered((p.name, p.step, p.value) for p in mlflow_kit.points(client, mlflow_kit.only_run(client)))


def _ordered(points: Iterable[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    return sorted((name, step, float(value)) for name, step, value in points)
