"""A ``Trainer`` whose training raises and is repeated in the same process, and the metrics of ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from telemetry import read_run

pytest.importorskip("transformers")

from transformers import Trainer, TrainerCallback, TrainingArguments

from telemetry.integrations.huggingface import TelemetryCallback

DATA = [{"x": torch.tensor([float(i)]), "labels": torch.tensor([2.0 * i])} for i in range(8)]


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.line(x)
        return {"loss": ((y - labels) ** 2).mean(), "logits": y}


class RaiseOnce(TrainerCallback):
    """Raise at the end of one step, the first time it is reached."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.step = 0
            raise RuntimeError("out of memory")


def trainer(folder: Path, *callbacks: TrainerCallback) -> Trainer:
    args = TrainingArguments(
        str(folder / "checkpoints"),
        max_steps=8,
        logging_steps=1,
        save_steps=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(Line(), args, train_dataset=DATA, eval_dataset=DATA, callbacks=list(callbacks))


@pytest.mark.parametrize("evaluates_first", [False, True])
def test_training_repeated_after_an_exception_supersedes_the_points_after_the_checkpoint(
    tmp_path: Path, evaluates_first: bool
) -> None:
    run = tmp_path / "run"
    host = trainer(tmp_path, TelemetryCallback(run), RaiseOnce(7))
    if evaluates_first:
        host.evaluate()
    with pytest.raises(RuntimeError, match="out of memory"):
        host.train()
    host.train(resume_from_checkpoint=True)
    read = read_run(run)
    assert (read.status, read.header.attempt) == ("finished", 2)
    assert read.curves["train/loss"].steps.tolist() == list(range(1, 9))
    everything = read_run(run, superseded=True).curves["train/loss"].steps.tolist()
    assert sorted(everything) == sorted([*range(1, 7), *range(5, 9)])


def test_an_evaluation_before_training_continues_does_not_hide_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    host = trainer(tmp_path, callback := TelemetryCallback(run), RaiseOnce(7))
    with pytest.raises(RuntimeError, match="out of memory"):
        host.train()
    callback.on_train_end(host.args, host.state, host.control)
    host = trainer(tmp_path, TelemetryCallback(run, resume=True))
    host.evaluate()
    host.train(resume_from_checkpoint=True)
    assert read_run(run).curves["train/loss"].steps.tolist() == list(range(1, 9))


def test_the_metrics_of_predict_are_recorded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    host = trainer(tmp_path, callback := TelemetryCallback(run))
    host.train()
    metrics = host.predict(DATA).metrics
    callback.on_train_end(host.args, host.state, host.control)
    curve = read_run(run).curves["test/loss"]
    assert (curve.steps.tolist(), curve.values.tolist()) == ([8], [pytest.approx(metrics["test_loss"])])
