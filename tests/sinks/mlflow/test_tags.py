"""What the MLflow sink says of a run beside its curves: parameters, tags, description, status."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest

from support.mlflow_kit import (
    IGNORE_NOLOAD,
    client_of,
    opened,
    opened_between,
    put_store,
    refusal,
    shared_template,
    the_run,
)
from telemetry import Metric
from telemetry.testing.points import STARTED, run_record, scalars

pytestmark = IGNORE_NOLOAD


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run folder, with an SQLite store beside it."""
    shared_template(request.config)
    put_store(tmp_path / "runs")
    return tmp_path / "runs" / "water"


@pytest.fixture
def client(folder: Path) -> Any:
    return client_of(f"sqlite:///{folder.parent}/mlflow.db")


def test_a_run_has_its_name_its_start_its_owner_and_its_folder(folder, client):
    opened(folder, run_record("water", name="Water & ice", started=STARTED, host="node 7", versions={"torch": "2.13"}))
    run = the_run(client)
    assert (run.info.run_name, run.info.start_time, run.info.status) == ("Water & ice", STARTED, "RUNNING")
    tags = run.data.tags
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == (getpass.getuser(), str(folder))
    assert (tags["telemetry.run"], tags["telemetry.attempt"]) == ("water", "1")
    assert (tags["host"], tags["version.torch"]) == ("node 7", "2.13")


def test_name_tags_and_experiment_can_be_chosen(folder, client):
    opened(folder, run_name="mine", experiment="fits", tags={"group": "a"})
    run = the_run(client)
    assert (run.info.run_name, run.data.tags["group"]) == ("mine", "a")
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "fits"
    assert experiment.artifact_location == str(folder.parent / "mlartifacts")


def test_the_experiment_is_that_of_the_environment_else_the_runs_project_else_the_default(folder, client, monkeypatch):
    names = []
    for run_id, project, variable in (("a", None, None), ("b", "water", None), ("c", "water", "mine")):
        if variable:
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", variable)
        _, found = opened(folder.parent / run_id, run_record(run_id, project=project))
        run = client.get_run(found.destination.rpartition(" ")[2])
        names.append(client.get_experiment(run.info.experiment_id).name)
    assert names == ["Default", "water", "mine"]


def test_units_and_labels_are_tags_and_names_lead_back(folder, client):
    metrics = {"val/F[0]": Metric(unit="kcal/mol/Å", label="RMSE of forces"), "val/loss": Metric()}
    opened(folder, run_record("water", metrics=metrics))
    tags = the_run(client).data.tags
    assert tags["unit.val/F_0_"] == "kcal/mol/Å"
    assert tags["label.val/F_0_"] == "RMSE of forces"
    assert tags["name.val/F_0_"] == "val/F[0]"
    assert not any("val/loss" in name for name in tags)


def test_the_description_shows_run_and_units_and_stays_as_somebody_has_changed_it(folder, client):
    metrics = {f"val/m{i}": Metric(unit="kcal/mol") for i in range(500)}
    opened(folder, run_record("water", metrics=metrics))
    run = the_run(client)
    note = run.data.tags["mlflow.note.content"]
    assert "| name | water |" in note
    assert "| val/m7 | kcal/mol | 1 |  |" in note
    assert len(note) <= 8000
    assert note.endswith("|\n\n… (cut)")
    client.set_tag(run.info.run_id, "mlflow.note.content", "mine")
    opened(folder, run_record("water", attempt=2))
    assert the_run(client).data.tags["mlflow.note.content"] == "mine"


def test_parameters_have_dotted_names(folder, client):
    params = {"optimizer": {"lr": 1e-3, "betas": [0.9, None]}, "amp": True, "a[0]": "å", "a(0)": "", "x.y": 1}
    opened(folder, run_record("water", params=params | {"x": {"y": 2}}))
    assert the_run(client).data.params == {
        "optimizer.lr": "0.001",
        "optimizer.betas": "[0.9, null]",
        "amp": "true",
        "a_0_": "å",
        "a_0_:2": "",
        "x.y": "1",
        "x.y:2": "2",
    }


def test_many_parameters_and_long_ones_are_there_and_cuts_can_be_seen(folder, client):
    params: dict[str, Any] = {f"p{i}": i for i in range(250)} | {"long": "x" * 7000, "x" * 300: 1}
    opened(folder, run_record("water", params=params))
    held = the_run(client).data.params
    assert len(held) == 252
    assert (len(held["long"]), held["long"][-7:]) == (6000, "… (cut)")


def test_a_parameter_that_an_attempt_has_changed_is_a_tag_with_the_newest_value(folder, client):
    for attempt, rate in enumerate((1, 2, 1), 1):
        opened(folder, run_record("water", attempt=attempt, params={"lr": rate, "seed": 7}))
        data = the_run(client).data
        assert data.params == {"lr": "1", "seed": "7"}
        assert data.tags.get("telemetry.param.lr") == (None if attempt == 1 else str(rate))
        assert "telemetry.param.seed" not in data.tags


def test_what_another_version_of_mlflow_refuses_is_left_out_and_the_rest_is_there(folder, client):
    def refuse(real: Any, *args: Any, **kwargs: Any) -> None:
        if any(param.key == "p77" for param in kwargs["params"]):
            raise refusal()
        real.log_batch(*args, **kwargs)

    opened_between(folder, run_record("water", params={f"p{i}": i for i in range(150)}), log_batch=refuse)
    assert len(the_run(client).data.params) == 149


@pytest.mark.parametrize(
    ("status", "expected"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("preempted", "KILLED"), ("killed", "KILLED")],
)
def test_the_end_has_its_status_its_time_and_its_reason(folder, client, status, expected):
    sink, _ = opened(folder)
    sink.sink_write([scalars(1)])
    sink.sink_close(status, STARTED + 5000, "because")
    run = the_run(client)
    assert (run.info.status, run.info.end_time) == (expected, STARTED + 5000)
    assert (run.data.tags["telemetry.status"], run.data.tags["telemetry.reason"]) == (status, "because")


def test_a_run_that_has_ended_stays_so_until_a_new_attempt_goes_on(folder, client):
    opened(folder)[0].sink_close("killed", STARTED + 1, "")
    opened(folder)
    assert the_run(client).info.status == "KILLED"
    opened(folder, run_record("water", attempt=2))
    assert the_run(client).info.status == "RUNNING"


def test_a_clock_at_zero_is_not_taken_for_now(folder, client):
    sink, _ = opened(folder, run_record("water", started=0))
    sink.sink_close("finished", 0, "")
    assert (the_run(client).info.start_time, the_run(client).info.end_time) == (1, 1)


def test_opening_again_changes_nothing(folder, client):
    opened(folder)
    calls: list[str] = []

    def note(real: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(str(kwargs))

    opened_between(folder, log_batch=note, update_run=note)
    assert calls == []
