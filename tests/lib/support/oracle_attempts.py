"""A run of several attempts, with one or two ranks, that was killed and stopped."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aimnet2mult.cli.sample_data import SAMPLE
from aimnet2mult.models.checkpoint_folder import find_newest, iteration_of
from support.oracle import CAPTURES, MASK, Batch, Mishap, read_batches
from support.oracle_runs import LAST, PLAN, train_config
from support.published_values import Batches, Points, assemble, expected_points
from support.rank_jobs import Job, Launcher, torchrun_environments

__all__ = ["ResumedRun", "train_in_attempts", "train_ranks"]

VALIDATION_BATCHES = 7
"""Number of batches of a validation."""
SINKS = "tensorboard,mlflow,wandb"


@dataclass(frozen=True, kw_only=True)
class ResumedRun:
    """A finished run of several attempts."""

    folder: Path
    attempts: Sequence[tuple[int, Sequence[Batch]]]
    """The batches of each attempt, and the iteration from which it continued."""

    @property
    def batches(self) -> Batches:
        """The batches that count."""
        return assemble(self.attempts)

    @property
    def expected(self) -> Points:
        """All points that the run must have."""
        return expected_points(self.batches, replace(PLAN, ends=[LAST]))


def train_ranks(launcher: Launcher, config: Path, job: Path, *options: object, ranks: int, **variables: str) -> Job:
    """Start a training with captures in the folder ``captures`` of the job."""
    captures = job / "captures"
    captures.mkdir(parents=True)
    environments: Sequence[Mapping[str, str]] = torchrun_environments(ranks) if ranks > 1 else [{}]
    arguments = ["train", "--config", config, "--model", SAMPLE / "model.yaml", *options]
    common = {**variables, CAPTURES: str(captures)}
    return launcher.start(job / "output", arguments, [{**environment, **common} for environment in environments])


def train_in_attempts(launcher: Launcher, data: Path, folder: Path) -> ResumedRun:
    """Train a run that is killed in the second epoch, stopped in the middle of a window, and in a validation.

    Once it is complete, it is resumed for a third epoch.
    """
    config = train_config(folder, data)
    runs = folder / "runs"
    mishaps = [
        # After iteration 9 has been recorded; the checkpoint is that of iteration 7.
        (2, Mishap("0", 11, 2 * VALIDATION_BATCHES, "SIGKILL", '"step":9,', runs)),
        (1, Mishap("", 4, VALIDATION_BATCHES, "SIGTERM", "", runs)),
        # In the first batch of the validation after iteration 12.
        (1, Mishap("", 1, 1, "SIGTERM", "", runs)),
        (2, None),
        (1, None),
    ]
    attempts: list[tuple[int, Sequence[Batch]]] = []
    for number, (ranks, mishap) in enumerate(mishaps):
        run = next(runs.glob("oracle-*"), None)
        checkpoint = find_newest(run) if run else None
        options = ["--resume", run] if run else []
        options += ["trainer.epochs=3"] if number == len(mishaps) - 1 else []
        variables = {MASK: f"{-0.1 * number}", **(mishap.variable if mishap else {})}
        job = folder / f"attempt-{number}"
        started = train_ranks(launcher, config, job, *options, ranks=ranks, **variables)
        codes = started.wait()
        expected = {"SIGKILL": [-9, 1], "SIGTERM": [143], "": [0] * ranks}[mishap.signal if mishap else ""]
        assert codes == expected, started.stderr(0)
        attempts.append((iteration_of(checkpoint) if checkpoint else 0, read_batches(job / "captures")))
        if number in {0, len(mishaps) - 1}:
            deliver(next(runs.glob("oracle-*")))
    assert [start for start, _ in attempts] == [0, PLAN.batches_per_epoch, 11, 12, LAST]
    (folder,) = runs.glob("oracle-*")
    return ResumedRun(folder=folder, attempts=attempts)


def deliver(run: Path) -> None:
    """Deliver the records of a run to all backends, in another process."""
    settings = {"WANDB_MODE": "offline", "NETRC": str(run / "no-netrc")}
    user = ("WANDB", "MLFLOW", "TELEMETRY")
    others = {name: value for name, value in os.environ.items() if not name.startswith(user)}
    command = [sys.executable, "-m", "telemetry", "sync", str(run), "--telemetry-sinks", SINKS]
    subprocess.run(command, check=True, timeout=120, env=others | settings, cwd=run.parent, capture_output=True)
