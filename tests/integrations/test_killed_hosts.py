"""The examples of other frameworks with three sinks: killed half-way, resumed, and compared in each backend."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from support.killed_hosts import mlflow_points, run_example, tensorboard_points, wandb_points
from telemetry import read_receipt, read_run

pytest.importorskip("mlflow")
EXAMPLES = Path(__file__).parents[2] / "examples" / "hosts"


def points(run: Path, *, superseded: bool = False) -> list[tuple[str, int, float]]:
    curves = read_run(run, superseded=superseded).curves
    return sorted(
        (name, int(step), float(value))
        for name, curve in curves.items()
        for step, value in zip(curve.steps, curve.values, strict=True)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.parametrize(
    ("name", "kill_at", "steps"),
    [
        ("lightning", 31, range(4, 200, 5)),
        ("transformers", 28, range(5, 201, 5)),
        ("accelerate", 28, range(5, 201, 5)),
    ],
)
def test_a_killed_and_resumed_training_is_complete_in_three_backends(
    name: str, kill_at: int, steps: range, tmp_path: Path
) -> None:
    example, run = EXAMPLES / f"{name}_training.py", tmp_path / "runs" / name
    run_example(example, tmp_path, kill_at=kill_at)
    before = points(run)
    run_example(example, tmp_path)
    read = read_run(run)
    assert (read.status, read.header.attempt) == ("finished", 2)
    # Every step has one valid point, and all points before the kill are still in the journal.
    (losses,) = (read.curves[each] for each in read.curves if each == "train/loss")
    assert losses.steps.tolist() == list(steps)
    everything = points(run, superseded=True)
    assert not Counter(before) - Counter(everything)
    receipt = read_receipt(run)
    assert [(sink.name, sink.pending, sink.rejected) for sink in receipt.sinks] == [
        ("mlflow", 0, 0),
        ("tensorboard", 0, 0),
        ("wandb", 0, 0),
    ]
    valid = points(run)
    # W&B and MLflow keep the superseded points that they had before the resume.
    for shown in (wandb_points(run), mlflow_points(run)):
        assert not Counter(valid) - Counter(shown)
        assert not Counter(shown) - Counter(everything)
    # TensorBoard replaces them; its values have single precision.
    assert tensorboard_points(run) == sorted((name, step, float(np.float32(value))) for name, step, value in valid)
    assert {n.split("/")[1]: c.unit for n, c in read.curves.items() if n.endswith("E_rmse")} == {"E_rmse": "kcal/mol"}
