"""HostRun: the run of a trainer of another framework, which decides what is recorded, and when."""

from __future__ import annotations

import copy
import decimal
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from telemetry import Metric, SettingError, SinkNotFound, open_run, read_run
from telemetry.integrations.host_names import HostNames
from telemetry.integrations.host_run import HostRun


def curves(folder: Path, **options: Any) -> dict[str, list[tuple[int, float]]]:
    found = read_run(folder, **options).curves
    return {name: list(zip(c.steps.tolist(), c.values.tolist(), strict=True)) for name, c in found.items()}


def new(folder: Path, **options: Any) -> HostRun:
    return HostRun(folder, sinks=[], **options)


def test_nothing_is_created_before_the_first_value_and_parameters_wait_for_it(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    run.params({"lr": 1.0})
    assert not (tmp_path / "run").exists()
    run.log({"loss": 1.0}, 7)
    run.params({"late": 2})
    run.close()
    assert read_run(tmp_path / "run").header.params == {"lr": 1.0, "late": 2}
    assert curves(tmp_path / "run") == {"train/loss": [(7, 1.0)]}


def test_names_of_frameworks_become_streams_and_never_collide() -> None:
    names = HostNames()
    given = ["loss", "train_loss", "val/loss", "valid_loss", "val_loss", "test_acc", "a/b/c", "valuable", "/x", "a/"]
    found = ["/".join(names.resolve(name)) for name in given]
    assert found == [
        "train/loss",
        "train/loss_2",
        "val/loss",
        "val/loss_2",
        "val/loss_3",
        "test/acc",
        "a/b/c",
        "train/valuable",
        "train//x",
        "train/a/",
    ]
    assert ["/".join(names.resolve(name)) for name in given] == found


def test_numbers_of_every_kind_are_recorded_and_anything_else_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new(tmp_path / "run")
    for step in (1, 2):
        values = {"a": 1, "b": np.float32(0.5), "c": torch.tensor([2.0]), "d": {"e": True}, "f": [1], "g": None}
        run.log(values, step)
    run.close()
    assert curves(tmp_path / "run") == {
        "train/a": [(1, 1.0), (2, 1.0)],
        "train/b": [(1, 0.5), (2, 0.5)],
        "train/c": [(1, 2.0), (2, 2.0)],
        "d/e": [(1, 1.0), (2, 1.0)],
    }
    assert [r.message for r in caplog.records] == ["'f' is of type list, so it is not recorded as a number or a text"]


def test_a_tensor_may_be_overwritten_after_the_call(tmp_path: Path) -> None:
    run, loss = new(tmp_path / "run"), torch.zeros(())
    for step in range(3):
        run.log({"loss": loss.add_(1)}, step)
    run.close()
    assert curves(tmp_path / "run")["train/loss"] == [(0, 1.0), (1, 2.0), (2, 3.0)]


def test_steps_are_counted_if_the_host_does_not_tell_them(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    for value in (3.0, 4.0):
        run.log({"loss": value})
    run.close()
    again = new(tmp_path / "run", resume=True)
    again.log({"loss": 5.0})
    again.close()
    assert curves(tmp_path / "run")["train/loss"] == [(0, 3.0), (1, 4.0), (2, 5.0)]


def test_the_same_number_logged_twice_at_a_step_is_recorded_once(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    run.log({"epoch": 0, "loss": 1.0}, 5)
    run.log({"epoch": 0, "lr": 2.0}, 5)
    run.log({"epoch": 0}, 6)
    run.close()
    assert curves(tmp_path / "run") == {
        "train/epoch": [(5, 0.0), (6, 0.0)],
        "train/loss": [(5, 1.0)],
        "train/lr": [(5, 2.0)],
    }


def test_what_is_logged_after_closing_becomes_the_next_attempt_and_supersedes_nothing(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    run.params({"lr": 1})
    run.log({"loss": 1.0, "val_loss": 1.0}, 10)
    run.close()
    for step in (0, 10):
        run.log({"test_loss": 3.0, "val_loss": 2.0}, step)
        run.close("failed", "no memory")
    # A second training of the same process.
    run.log({"loss": 4.0}, 1)
    run.close()
    read = read_run(tmp_path / "run")
    assert (read.header.attempt, read.header.params, read.status) == (4, {"lr": 1}, "finished")
    assert curves(tmp_path / "run")["train/loss"] == [(10, 1.0), (1, 4.0)]
    assert curves(tmp_path / "run")["val/loss"] == [(10, 1.0), (0, 2.0), (10, 2.0)]


@pytest.mark.parametrize(("first", "kept"), [(8, [2, 4, 6]), (5, [2, 4]), (12, [2, 4, 6, 8, 10])])
def test_training_from_an_older_checkpoint_supersedes_what_follows_it(
    tmp_path: Path, first: int, kept: list[int]
) -> None:
    run = new(tmp_path / "run")
    for step in (2, 4, 6, 8, 10):
        run.log({"loss": float(step)}, step)
    run.close("failed")
    again = new(tmp_path / "run", resume=True)
    again.log({"loss": 100.0}, first)
    again.close()
    assert curves(tmp_path / "run")["train/loss"] == [*((step, float(step)) for step in kept), (first, 100.0)]
    assert len(curves(tmp_path / "run", superseded=True)["train/loss"]) == 6


def test_an_evaluation_in_another_process_supersedes_nothing(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    run.log({"loss": 1.0}, 10)
    run.close()
    for step in (0, 4):
        evaluation = new(tmp_path / "run", resume=True)
        evaluation.log({"test_acc": 0.5}, step)
        evaluation.close()
    assert curves(tmp_path / "run") == {"train/loss": [(10, 1.0)], "test/acc": [(0, 0.5), (4, 0.5)]}


def test_the_step_that_the_host_resumes_from_precedes_the_guess(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    for step in (5, 10):
        run.log({"loss": 1.0}, step)
    run.close()
    again = new(tmp_path / "run", resume=True)
    again.resume_step = 5
    again.log({"loss": 2.0}, 20)
    again.close()
    assert curves(tmp_path / "run")["train/loss"] == [(5, 1.0), (20, 2.0)]


def test_the_folder_chosen_for_checkpoints_is_the_one_that_is_opened(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", sinks=[]):
        pass
    run = new(tmp_path / "run")
    assert run.folder == tmp_path / "run-2"
    (run.folder / "checkpoints").mkdir(parents=True)
    run.log({"loss": 1.0}, 1)
    run.close()
    assert curves(tmp_path / "run-2") == {"train/loss": [(1, 1.0)]}


def test_a_copy_in_another_process_continues_the_run_once_it_is_closed(tmp_path: Path) -> None:
    run = new(tmp_path / "run", metrics={"*/E": Metric(unit="meV", source_unit="eV")})
    run.log({"E": 1.0}, 1)
    copy = pickle.loads(pickle.dumps(run))  # noqa: S301 - its own data
    run.close()
    copy.log({"E": 2.0}, 2)
    copy.close()
    assert curves(tmp_path / "run") == {"train/E": [(1, 1000.0), (2, 2000.0)]}


def test_a_run_that_cannot_be_opened_does_not_stop_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    run = new(tmp_path / "file" / "run")
    for step in range(3):
        run.log({"loss": 1.0, "note": "text"}, step)
    run.close()
    (record,) = caplog.records
    assert record.message.startswith("training continues without telemetry: ")


def test_invalid_arguments_are_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(SinkNotFound):
        HostRun(tmp_path / "run", sinks="nothing-like-this")
    with pytest.raises(SettingError):
        new(tmp_path / "run", metrics={"loss": Metric()})


class Hostile:
    """Raises whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        msg = f"no {name}"
        raise OSError(msg)

    def __float__(self) -> float:
        raise MemoryError

    def __str__(self) -> str:
        raise ZeroDivisionError


class HostileFloat(float):
    def __float__(self) -> float:
        raise ZeroDivisionError


class HostileMapping(dict[str, Any]):
    def items(self) -> Any:
        raise OSError


CYCLE: dict[str, Any] = {}
CYCLE["again"] = CYCLE
VALUES = {
    "hostile": Hostile(),
    "float": HostileFloat(1),
    "huge": 10**400,
    "signaling": decimal.Decimal("sNaN"),
    "meta": torch.ones((), device="meta"),
    "lazy": torch.nn.UninitializedParameter(),
    "sparse": torch.ones(1).to_sparse(),
    "complex": 1j,
    "surrogate": "\ud800",
}
STEPS = [
    -1,
    2.5,
    float("nan"),
    "7",
    10**30,
    torch.ones(2),
    np.ones(2),
    torch.ones((), device="meta"),
    Hostile(),
    object(),
]


def test_no_value_name_or_step_stops_training_or_costs_the_others(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    run.log({"loss": 1.0} | VALUES, 1)
    for step in STEPS:
        run.log({"loss": 2.0}, step)  # type: ignore[arg-type]
        run.media("text", "note", step, "text")  # type: ignore[arg-type]
    for values in (CYCLE, HostileMapping(), {Hostile(): 1}, None, {"": 1, "a" * 5000: 1, "\x00": 1, "/": 1}):
        run.log(values, 2)  # type: ignore[arg-type]
        run.params(values)
    run.media("image", Hostile(), None, Hostile())
    run.log({1: 3.0, ("a", "b"): 4.0, None: 5.0}, torch.tensor(3))  # type: ignore[arg-type]
    run.log({"loss": 6.0})
    run.close()
    found = curves(tmp_path / "run")
    assert found["train/loss"] == [(1, 1.0), (4, 6.0)]
    assert (found["train/1"], found["train/('a', 'b')"], found["train/None"]) == ([(3, 3.0)], [(3, 4.0)], [(3, 5.0)])


def test_ten_thousand_names_are_recorded_as_far_as_a_run_may_have_them_and_the_rest_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new(tmp_path / "run")
    for step in (1, 2):
        run.log({f"layer_{number}": number for number in range(10_000)}, step)
    assert run.bus.flush(120)
    dropped = sum(run.bus.counts().dropped.values())
    run.close()
    found = curves(tmp_path / "run")
    assert len(found) > 1000
    assert sum(len(points) for points in found.values()) + dropped == 20_000
    assert len(caplog.records) == 1


def test_processes_started_one_after_the_other_continue_the_run(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    for step in (1, 2):
        spawned = pickle.loads(pickle.dumps(run))  # noqa: S301 - its own data
        spawned.log({"loss": 1.0}, step)
        spawned.close()
    run.log({"loss": 1.0}, 3)
    run.close()
    assert curves(tmp_path / "run") == {"train/loss": [(1, 1.0), (2, 1.0), (3, 1.0)]}


def test_a_deep_copy_records_its_own_run(tmp_path: Path) -> None:
    run = new(tmp_path / "run")
    twin = copy.deepcopy(run)
    for each in (twin, run):
        each.log({"loss": 1.0}, 1)
    for each in (twin, run):
        each.close()
    assert curves(tmp_path / "run") == curves(tmp_path / "run-2") == {"train/loss": [(1, 1.0)]}


def test_a_run_that_is_alive_elsewhere_is_not_resumed_and_training_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run(tmp_path / "run", sinks=[], settings={"every": 1}) as other:
        other.publish("train", 1, {"loss": 1.0})
        run = new(tmp_path / "run", resume=True)
        for step in range(2, 5):
            run.log({"loss": 2.0}, step)
        run.close()
    assert curves(tmp_path / "run") == {"train/loss": [(1, 1.0)]}
    (error,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert error.startswith("training continues without telemetry: RunAlive: ")
