"""Numbers of points of a run in its journal, in TensorBoard and in MLflow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from support import mlflow_kit, tensorboard_kit
from telemetry import read_header, read_receipt
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Scalars


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of points of the stream ``train``, which has one for each iteration.

    Attributes:
        iterations: iterations of the training.
        journaled: points in the journal, including those superseded by a resume from an earlier iteration.
        valid: points in the journal that are not superseded.
        tensorboard: points that TensorBoard shows.
        mlflow: points that MLflow shows; None: the run was not delivered to MLflow.
        attempts: number of times that the training was started.
    """

    iterations: int
    journaled: int
    valid: int
    tensorboard: int
    mlflow: int | None
    attempts: int

    def __str__(self) -> str:
        """Return one line."""
        mlflow = "" if self.mlflow is None else f", MLflow {self.mlflow}"
        superseded = f" and {self.journaled - self.valid} superseded" if self.journaled > self.valid else ""
        return (
            f"{self.iterations} iterations, {self.attempts} attempts; journal {self.valid}{superseded}, "
            f"TensorBoard {self.tensorboard}{mlflow}"
        )


def compare(run: Path, iterations: int, *, mlflow: bool = True) -> Counts:
    """Check that every destination shows each iteration once, and return the numbers.

    MLflow keeps points that a resume has superseded, as far as they had been delivered.
    """
    journal = train_points(run, superseded=True)
    valid = train_points(run)
    assert [point.step for point in valid] == list(range(1, iterations + 1))
    shown = tensorboard_kit.curve(run / "tensorboard")
    assert [(p.step, round(p.time * 1000)) for p in shown] == [(p.step, p.time) for p in valid]
    store = None
    if mlflow:
        store = mlflow_points(run)
        present = Counter(store)
        assert {_key(point) for point in valid} <= set(present) <= {_key(point) for point in journal}
        assert present.total() == len(present), "no point is duplicated"
    attempts = read_header(run).attempt
    return Counts(
        iterations=iterations,
        journaled=len(journal),
        valid=len(valid),
        tensorboard=len(shown),
        mlflow=None if store is None else len(store),
        attempts=attempts,
    )


def train_points(run: Path, *, superseded: bool = False) -> list[Scalars]:
    """Return the points of the stream ``train`` in the journal."""
    records = JournalReader(run, superseded=superseded).read(1_000_000, live=False)
    return [record for record in records if isinstance(record, Scalars) and record.stream == "train"]


def mlflow_points(run: Path) -> list[tuple[int, int]]:
    """Return step and time of each point of a run in the MLflow store next to the run folders."""
    with mlflow_kit.quiet():
        client = mlflow_kit.client_of(f"sqlite:///{run.parent / 'mlflow.db'}")
        (found,) = mlflow_kit.find_runs(client, read_header(run))
        return [(step, time) for step, _, time in mlflow_kit.history(client, found.info.run_id)]


def pending(run: Path) -> dict[str, int]:
    """Return the number of pending records of each sink."""
    return {sink.name: sink.pending for sink in read_receipt(run).sinks}


def _key(point: Scalars) -> tuple[int, int]:
    return point.step, point.time
