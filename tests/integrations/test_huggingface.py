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
    def __init__(self, step: int, error: BaseException | None = None) -> None:
        self.step = step
        self.error = error or ArithmeticError("the sum is wrong")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise self.error


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


def test_it_is_added_removed_and_returned_like_any_callback(tmp_path: Path) -> None:
    callback = TelemetryCallback(tmp_path / "run", sinks=[])
    host = trainer(tmp_path, callback)
    host.remove_callback(callback)
    assert callback not in host.callback_handler.callbacks
    host.add_callback(callback)
    assert host.pop_callback(TelemetryCallback) is callback
    host.train()
    assert not (tmp_path / "run").exists()


def test_ctrl_c_that_the_program_catches_and_training_again(tmp_path: Path) -> None:
    host = trainer(tmp_path, TelemetryCallback(tmp_path / "run", sinks=[]), FailAt(7, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        host.train()
    host.remove_callback(FailAt)
    host.train()
    assert points(tmp_path / "run")["train/loss"] == [5, 5, 10, 15, 20]
    assert (read_run(tmp_path / "run").status, read_run(tmp_path / "run").header.attempt) == ("finished", 2)


def test_trials_of_a_hyperparameter_search_have_runs_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    host = trainer(tmp_path, TelemetryCallback(tmp_path / "run", sinks=[]), max_steps=5, save_strategy="no")
    host.model_init = lambda _: Line()
    host.hyperparameter_search(
        backend="optuna", n_trials=2, hp_space=lambda trial: {"weight_decay": trial.suggest_float("weight_decay", 0, 1)}
    )
    trials = [read_run(tmp_path / name).header.params["trial"]["weight_decay"] for name in ("run", "run-2")]
    assert len(set(trials)) == 2
    assert points(tmp_path / "run-2")["train/loss"] == [5]
