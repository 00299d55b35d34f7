"""TelemetryCallback in a Trainer of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from transformers import Trainer, TrainerCallback, TrainingArguments

from telemetry import read_run
from telemetry.integrations.huggingface import TelemetryCallback

pytestmark = pytest.mark.filterwarnings("default")
DATA = [{"x": torch.tensor([x]), "labels": torch.tensor([2 * x])} for x in torch.linspace(-1, 1, 40).tolist()]


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: Any, labels: Any) -> Any:
        return {"loss": (self.layer(x) - labels).square().mean(), "logits": self.layer(x)}


class FailAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            msg = "the sum is wrong"
            raise ArithmeticError(msg)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer(folder: Path, callback: TelemetryCallback, *callbacks: TrainerCallback, **options: Any) -> Trainer:
    options = {"max_steps": 20, "logging_steps": 5, "eval_strategy": "steps", "eval_steps": 10} | options
    args = TrainingArguments(
        str(folder / "checkpoints"), report_to="none", disable_tqdm=True, use_cpu=True, save_steps=10, **options
    )
    return Trainer(Line(), args, train_dataset=DATA[::2], eval_dataset=DATA[1::2], callbacks=[callback, *callbacks])


def points(run: Path) -> dict[str, list[int]]:
    return {name: curve.steps.tolist() for name, curve in read_run(run).curves.items()}


def test_its_points_are_those_of_the_trainers_own_history(tmp_path: Path) -> None:
    host = trainer(tmp_path, TelemetryCallback(tmp_path / "run", sinks=[]))
    host.train()
    read = read_run(tmp_path / "run")
    expected: dict[str, dict[int, float]] = {}
    for entry in host.state.log_history:
        for name, value in entry.items():
            if name != "step":
                full = f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
                expected.setdefault(full, {})[entry["step"]] = value
    found = {n: dict(zip(c.steps.tolist(), c.values.tolist(), strict=True)) for n, c in read.curves.items()}
    assert found == expected
    assert {"train/loss", "eval/loss", "train/train_runtime"} < set(found)
    assert (read.status, read.header.attempt) == ("finished", 1)
    assert read.header.params["args"]["max_steps"] == 20


def test_training_from_a_checkpoint_continues_the_run_after_its_step(tmp_path: Path) -> None:
    failing = TelemetryCallback(tmp_path / "run", sinks=[])
    with pytest.raises(ArithmeticError):
        trainer(tmp_path, failing, FailAt(17), max_steps=40).train()
    # As at the end of the program.
    failing.on_train_end(None, None, None)  # type: ignore[arg-type]
    assert points(tmp_path / "run")["train/loss"] == [5, 10, 15]
    callback = TelemetryCallback(tmp_path / "run", sinks=[], resume=True)
    trainer(tmp_path, callback, max_steps=40).train(resume_from_checkpoint=True)
    assert points(tmp_path / "run")["train/loss"] == list(range(5, 45, 5))
    assert read_run(tmp_path / "run").skipped.superseded > 0


def test_evaluations_after_training_and_a_second_training_are_attempts_of_the_run(tmp_path: Path) -> None:
    host = trainer(tmp_path, TelemetryCallback(tmp_path / "run", sinks=[]))
    host.train()
    host.evaluate()
    host.evaluate(DATA[:5], metric_key_prefix="test")
    host.train()
    found = points(tmp_path / "run")
    assert found["test/loss"] == [20]
    # The same value at the same step is recorded once.
    assert found["eval/loss"] == [10, 20, 10, 20]
    assert found["train/loss"] == [5, 10, 15, 20] * 2


def test_evaluating_only_opens_a_run(tmp_path: Path) -> None:
    callback = TelemetryCallback(tmp_path / "run", sinks=[])
    trainer(tmp_path, callback).evaluate()
    callback.on_train_end(None, None, None)  # type: ignore[arg-type]
    assert points(tmp_path / "run")["eval/loss"] == [0]
