"""TelemetryTracker in accelerate, next to accelerate's own behavior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

pytest.importorskip("accelerate")

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState

from telemetry import read_run
from telemetry.integrations.accelerate import TelemetryTracker

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def accelerator(tracker: TelemetryTracker, **config: object) -> Accelerator:
    created = Accelerator(cpu=True, log_with=tracker)
    created.init_trackers("some project", config=config)
    return created


def points(run: Path) -> dict[str, dict[int, float]]:
    curves = read_run(run).curves.items()
    return {name: dict(zip(c.steps.tolist(), c.values.tolist(), strict=True)) for name, c in curves}


def test_values_of_all_kinds_and_the_configuration_are_recorded(tmp_path: Path) -> None:
    host = accelerator(TelemetryTracker(tmp_path / "run", sinks=[]), lr=0.1, layers=[8, 8], nested={"a": None})
    host.log({"loss": torch.tensor(0.5), "my_text": "text", "val": {"a": 1, "b": np.float32(2)}}, step=3)
    host.end_training()
    assert points(tmp_path / "run") == {"train/loss": {3: 0.5}, "val/a": {3: 1.0}, "val/b": {3: 2.0}}
    read = read_run(tmp_path / "run")
    assert (read.status, read.header.params) == ("finished", {"lr": 0.1, "layers": [8, 8], "nested": {"a": None}})


def test_steps_are_counted_without_a_step(tmp_path: Path) -> None:
    host = accelerator(TelemetryTracker(tmp_path / "run", sinks=[]))
    for value in (1.0, 2.0):
        host.log({"loss": value})
    host.end_training()
    assert points(tmp_path / "run") == {"train/loss": {0: 1.0, 1: 2.0}}


def test_the_tracker_is_found_by_name_and_its_bus_is_open(tmp_path: Path) -> None:
    host = accelerator(TelemetryTracker(tmp_path / "run", sinks=[]))
    bus = host.get_tracker("telemetry", unwrap=True)
    bus.publish("val", 7, {"acc": 0.5})
    host.end_training()
    assert points(tmp_path / "run") == {"val/acc": {7: 0.5}}


def test_the_configuration_is_recorded_without_any_value_and_once(tmp_path: Path) -> None:
    host = accelerator(TelemetryTracker(tmp_path / "run", sinks=[]), num_iterations=12, some_boolean=False)
    host.end_training()
    host.end_training()
    read = read_run(tmp_path / "run")
    assert (read.header.params, read.header.attempt) == ({"num_iterations": 12, "some_boolean": False}, 1)


def test_nothing_is_created_by_a_training_that_logs_nothing(tmp_path: Path) -> None:
    accelerator(TelemetryTracker(tmp_path / "run", sinks=[])).end_training()
    assert not (tmp_path / "run").exists()


def test_the_tracker_leaves_the_initialization_of_processes_to_accelerate(tmp_path: Path) -> None:
    tracker = TelemetryTracker(tmp_path / "run", sinks=[])
    assert PartialState._shared_state == {}
    Accelerator(cpu=True, log_with=tracker)
    assert PartialState._shared_state != {}


def test_arguments_of_other_trackers_are_ignored(tmp_path: Path) -> None:
    host = Accelerator(cpu=True, log_with=TelemetryTracker(tmp_path / "run", sinks=[]))
    host.init_trackers("some project", init_kwargs=None)
    host.log({"total_loss": 0.1}, step=0, log_kwargs=None)
    host.log({"total_loss": 0.2}, step=1, log_kwargs={"telemetry": {"commit": False}})
    host.end_training()
    assert points(tmp_path / "run") == {"train/total_loss": {0: 0.1, 1: 0.2}}


def test_images_and_tables_are_recorded(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    host = accelerator(TelemetryTracker(tmp_path / "run", sinks=[]))
    tracker = host.get_tracker("telemetry")
    images = np.zeros((2, 4, 5, 3), np.uint8)
    photo = PIL.Image.fromarray(images[0])
    tracker.log_images({"val/batch": images, "val/one": images[0], "photo": [photo]}, step=3)
    tracker.log_table("val/rows", columns=["a", "b"], data=[[1, "x"]], step=4)
    tracker.log_table("headed", data=[["a", "b"], [2, None]], step=4)
    tracker.log_table("frame", dataframe=pandas.DataFrame({"a": [3], "b": ["y"]}), step=4)
    host.end_training()
    media = read_run(tmp_path / "run").media
    assert {(type(each).__name__.lower(), each.name, each.step) for each in media} == {
        *(("image", name, 3) for name in ("val/batch/0", "val/batch/1", "val/one", "train/photo")),
        *(("table", name, 4) for name in ("val/rows", "train/headed", "train/frame")),
    }
