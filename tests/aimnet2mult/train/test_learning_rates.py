"""The learning rate of each parameter group is published under its name, where it differs from the main one."""

import math
from pathlib import Path

import pytest

from aimnet2mult.config.schema import load
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support.tiny_runs import points, train_tiny
from telemetry import read_header

GROUPS = (
    "optimizer.param_groups.embedding={re: embedding, lr: 0.01}",
    "optimizer.param_groups.last layer={re: 'mlp.3', weight_decay: 0.1}",
    "telemetry.every=1",
)
HALVED = "scheduler={class: torch.optim.lr_scheduler.ExponentialLR, kwargs: {gamma: 0.5}}"
BY_GROUP = (
    "scheduler={class: ignite.handlers.CosineAnnealingScheduler, "
    "kwargs: {start_value: 0.1, end_value: 0, cycle_size: 12, param_group_index: 2}}"
)


def rates(run: Path) -> dict[str, dict[int, float]]:
    """Return the curves of learning rates, by name."""
    found: dict[str, dict[int, float]] = {}
    for step, values in points(run, "train").items():
        for name in values:
            if name == "lr" or name.startswith("lr_"):
                found.setdefault(name, {})[step] = values[name]
    return found


def test_a_group_with_its_own_learning_rate_has_its_own_curve(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, *GROUPS, HALVED, "trainer.epochs=2")
    halvings = {step: 0.5 ** (step > 3) for step in range(1, 7)}
    assert rates(run) == {
        "lr": {step: pytest.approx(0.1 * factor) for step, factor in halvings.items()},
        "lr_embedding": {step: pytest.approx(0.01 * factor) for step, factor in halvings.items()},
    }
    assert read_header(run).metrics["train/lr_embedding"].label == "learning rate of embedding"


def test_a_group_that_a_schedule_sets_apart_has_a_curve_from_then_on(tmp_path: Path) -> None:
    found = rates(train_tiny(tmp_path, *GROUPS, BY_GROUP, "trainer.epochs=2"))
    assert set(found["lr"].values()) == {0.1}
    # The name is made suitable for a metric. At first, the value is the main one.
    assert found["lr_last_layer"] == {
        step: pytest.approx(0.05 * (1 + math.cos(math.pi * (step - 1) / 12))) for step in range(2, 7)
    }


def test_without_groups_of_their_own_learning_rate_there_is_one_curve(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, GROUPS[1], "trainer.epochs=1", "telemetry.every=1")
    assert list(rates(run)) == ["lr"]
    assert [name for name in read_header(run).metrics if "/lr" in name] == ["train/lr"]


def test_a_run_of_an_earlier_version_gets_the_new_curves_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # Version 0.1 declared and published one learning rate.
        patch.setattr("aimnet2mult.config.schema.Config.lr_groups", [])
        run = train_tiny(tmp_path, *GROUPS, "trainer.epochs=1")
    assert list(rates(run)) == ["lr"]
    assert train(Request(resume=str(run), overrides=["trainer.epochs=2"])) == 0
    assert list(rates(run)["lr"]) == [1, 2, 3, 4, 5, 6]
    assert rates(run)["lr_embedding"] == dict.fromkeys([4, 5, 6], 0.01)


def test_a_removed_group_has_no_curve(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    given = [f"data.fidelity_datasets.0={tmp_path / 'a.h5'}", *GROUPS, "optimizer.param_groups.shifts=null"]
    assert load([], given).lr_groups == ["embedding"]
    assert load([], [*given, HALVED]).lr_groups == ["embedding", "last layer"]
