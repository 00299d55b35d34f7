"""Learning rate schedules of the original format."""

from pathlib import Path
from typing import Any

import pytest

from aimnet2mult.config.merge import read_yaml, write_yaml
from aimnet2mult.config.schema import load
from support.legacy_settings import FILES, notes, read

IGNITE = "ignite.handlers.param_scheduler"
TORCH = "torch.optim.lr_scheduler"


def schedule(data: list[str], text: str, *overrides: str) -> dict[str, Any]:
    """Return the translation of a scheduler section, written to a file next to the data."""
    tmp_path = Path(data[0].partition("=")[2]).parent
    content = {**read_yaml(FILES / "iterations.yaml"), "scheduler": None}
    write_yaml(tmp_path / "1.yaml", content)
    (tmp_path / "2.yaml").write_text(f"scheduler: {text}\n")
    found: dict[str, Any] = load([tmp_path / "1.yaml", tmp_path / "2.yaml"], [*data, *overrides]).to_dict()["scheduler"]
    return found


def test_ignites_plateau_becomes_torchs(data: list[str]) -> None:
    text = f"{{class: {IGNITE}.ReduceLROnPlateauScheduler, kwargs: {{metric_name: loss, min_delta: 0.1, cooldown: 1}}}}"
    assert schedule(data, text) == {
        "class": f"{TORCH}.ReduceLROnPlateau",
        "kwargs": {"cooldown": 1, "threshold": 0.1, "threshold_mode": "abs"},
        "step": None,
        "metric_name": "loss",
    }


@pytest.mark.parametrize(("name", "step"), [("StepLR", None), ("CosineAnnealingLR", None), ("OneCycleLR", "iteration")])
def test_torchs_schedulers_are_kept(data: list[str], name: str, step: str | None) -> None:
    found = schedule(data, f"{{class: {TORCH}.{name}, kwargs: {{a: 1}}, terminate_on_low_lr: null}}")
    assert found == {"class": f"{TORCH}.{name}", "kwargs": {"a": 1}, "step": step, "metric_name": None}


@pytest.mark.parametrize(
    ("cycle", "overrides", "step"),
    [
        (10, (), "val"),
        (200, (), "val"),
        (201, (), "iteration"),
        (10, ("scheduler.step=iteration",), "iteration"),
        (201, ("scheduler.step=val",), "val"),
        (10, ("trainer.epochs=9",), "iteration"),
    ],
)
def test_a_cycle_counts_validations_unless_it_is_longer_than_the_training(
    data: list[str],
    caplog: pytest.LogCaptureFixture,
    cycle: int,
    overrides: tuple[str, ...],
    step: str,
) -> None:
    text = f"{{class: {IGNITE}.LinearCyclicalScheduler, kwargs: {{start_value: 1, end_value: 2, cycle_size: {cycle}}}}}"
    assert schedule(data, text, *overrides)["step"] == step
    note = notes(caplog).get("scheduler", "")
    assert bool(note) == ("scheduler.step" not in "".join(overrides))
    assert not note or ("scheduler.step=iteration" in note) == (step == "val")


@pytest.mark.parametrize(("value", "limit"), [("1e-5", 1e-5), ("0.0", None), ("null", None)])
def test_the_learning_rate_that_ends_the_training_is_kept(data: list[str], value: str, limit: float | None) -> None:
    assert read("plateau", data, f"scheduler.terminate_on_low_lr={value}").trainer.stop_below_lr == limit


PLATEAU = f"{{class: {IGNITE}.ReduceLROnPlateauScheduler, kwargs: {{metric_name: loss, factor: 0.5}}}}"
CYCLE = (
    f"{{class: {IGNITE}.LinearCyclicalScheduler, kwargs: {{start_value: 1, end_value: 2, cycle_size: 5}}, step: val}}"
)
ONE_CYCLE = f"{{class: {TORCH}.OneCycleLR, kwargs: {{max_lr: 0.1}}}}"


@pytest.mark.parametrize("lower", [PLATEAU, CYCLE])
def test_another_class_drops_what_only_the_scheduler_of_a_lower_layer_has(data: list[str], lower: str) -> None:
    upper = f"scheduler={{class: {TORCH}.CosineAnnealingLR, kwargs: {{T_max: 10}}}}"
    assert schedule(data, lower, upper) == {
        "class": f"{TORCH}.CosineAnnealingLR",
        "kwargs": {"T_max": 10},
        "step": None,
        "metric_name": None,
    }


def test_another_class_of_the_same_kind_keeps_the_arguments_as_in_the_original(data: list[str]) -> None:
    found = schedule(data, CYCLE, f"scheduler.class={IGNITE}.CosineAnnealingScheduler")
    assert found["kwargs"] == {"start_value": 1, "end_value": 2, "cycle_size": 5}
    assert schedule(data, ONE_CYCLE, f"scheduler.class={TORCH}.StepLR")["step"] is None
