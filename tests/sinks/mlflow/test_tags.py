"""The description of a run in MLflow: parameters, tags, note and status."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from support.mlflow_kit import (
    IGNORE_NOLOAD,
    client_of,
    copy_store,
    only_run,
    open_sink,
    open_sink_with,
    rejection,
    shared_template,
    shown_units,
)
from telemetry import Metric
from telemetry.testing.points import STARTED, run_record, scalars

pytestmark = IGNORE_NOLOAD


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a run folder next to an SQLite store."""
    shared_template(request.config)
    copy_store(tmp_path / "runs")
    return tmp_path / "runs" / "water"


@pytest.fixture
def client(folder: Path) -> Any:
    return client_of(f"sqlite:///{folder.parent}/mlflow.db")


def test_a_run_has_its_name_start_owner_and_folder(folder, client):
    open_sink(
        folder, run_record("water", name="Water & ice", started=STARTED, host="node 7", versions={"torch": "2.13"})
    )
    run = only_run(client)
    assert (run.info.run_name, run.info.start_time, run.info.status) == ("Water & ice", STARTED, "RUNNING")
    tags = run.data.tags
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == (getpass.getuser(), str(folder))
    assert (tags["telemetry.run"], tags["telemetry.attempt"]) == ("water", "1")
    assert (tags["host"], tags["version.torch"]) == ("node 7", "2.13")


def test_name_tags_and_experiment_can_be_set_by_options(folder, client):
    open_sink(folder, run_name="mine", experiment="fits", tags={"group": "a"})
    run = only_run(client)
    assert (run.info.run_name, run.data.tags["group"]) == ("mine", "a")
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "fits"
    assert experiment.artifact_location == str(folder.parent / "mlartifacts")


def test_the_experiment_is_that_of_the_environment_else_the_project_else_the_default(folder, client, monkeypatch):
    names = []
    for run_id, project, variable in (("a", None, None), ("b", "water", None), ("c", "water", "mine")):
        if variable:
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", variable)
        _, found = open_sink(folder.parent / run_id, run_record(run_id, project=project))
        run = client.get_run(found.destination.rpartition(" ")[2])
        names.append(client.get_experiment(run.info.experiment_id).name)
    assert names == ["Default", "water", "mine"]


def test_the_original_names_are_tags_and_units_and_labels_are_not(folder, client):
    metrics = {"val/F[0]": Metric(unit="kcal/mol/Å", label="RMSE of forces"), "val/loss": Metric()}
    open_sink(folder, run_record("water", metrics=metrics))
    tags = only_run(client).data.tags
    assert tags["name.val/F_0_"] == "val/F[0]"
    assert not any(name.startswith(("unit.", "label.")) for name in tags)


def test_the_description_has_a_row_for_the_run_and_for_each_metric_of_all_streams(folder, client):
    error = Metric(unit="kcal/mol", label="RMSE of energy", better="lower", main=True)
    metrics = {"train/lr": Metric(), "train/E_rmse": error, "val/E_rmse": error, "val/a|b[0]": Metric(unit="Å")}
    open_sink(folder, run_record("water", metrics=metrics))
    run = only_run(client)
    note = run.data.tags["mlflow.note.content"]
    assert "| name | water |" in note
    assert note[note.index("| metric") :].splitlines()[2:] == [
        r"| E\_rmse | kcal/mol | RMSE of energy | train, val |",
        "| lr |  |  | train |",
        r"| a\|b\[0\] | Å |  | val |",
    ]
    assert shown_units(run) == {
        "train/E_rmse": "kcal/mol",
        "val/E_rmse": "kcal/mol",
        "train/lr": "1",
        "val/a|b[0]": "Å",
    }


def test_the_description_is_of_the_newest_attempt_unless_it_was_edited(folder, client):
    metrics = {f"val/m{i}": Metric(unit="kcal/mol") for i in range(500)}
    open_sink(folder, run_record("water", metrics=metrics))
    run = only_run(client)
    note = run.data.tags["mlflow.note.content"]
    assert len(note) <= 8000
    assert note.endswith("|\n\n… (cut)")
    open_sink(folder, run_record("water", attempt=2, metrics={"val/new": Metric(unit="e")}))
    assert shown_units(only_run(client)) == {"val/new": "e"}
    client.set_tag(run.info.run_id, "mlflow.note.content", "edited")
    open_sink(folder, run_record("water", attempt=3))
    assert only_run(client).data.tags["mlflow.note.content"] == "edited"


def test_a_run_of_version_0_1_keeps_its_description_and_its_tags_of_units(folder, client):
    open_sink(folder)
    run_id = only_run(client).info.run_id
    client.delete_tag(run_id, "telemetry.note")
    client.set_tag(run_id, "mlflow.note.content", "as written by version 0.1")
    client.set_tag(run_id, "unit.val/E_rmse", "kcal/mol")
    sink, _ = open_sink(folder, run_record("water", attempt=2))
    assert sink.sink_write([scalars(1)]) == 1
    tags = only_run(client).data.tags
    assert tags["mlflow.note.content"] == "as written by version 0.1"
    assert (tags["unit.val/E_rmse"], tags["telemetry.attempt"]) == ("kcal/mol", "2")


def test_the_data_sets_are_inputs_once_their_checksums_are_recorded(folder, client):
    data = {"fidelity_datasets": {"0": "/data/gfn1.h5"}, "val_fidelity_datasets": {"0": "/data/held out.h5"}}
    run = run_record("water", params={"data": data})
    sink, _ = open_sink(folder, run)
    sink.sink_write([scalars(1)])
    assert only_run(client).inputs.dataset_inputs == []
    checksums = {"data.fidelity_datasets.0": 255, "data.val_fidelity_datasets.0": 2**32 - 1, "data.gone": 3}
    (folder / "data.json").write_text(json.dumps(checksums), encoding="utf-8")
    sink.sink_write([scalars(2)])
    for attempt in (1, 2):
        sink, _ = open_sink(folder, run_record("water", attempt=attempt, params={"data": data}))
        sink.sink_write([scalars(2 + attempt)])
    inputs = only_run(client).inputs.dataset_inputs
    assert sorted((i.dataset.name, i.dataset.digest, i.dataset.source, i.tags[0].value) for i in inputs) == [
        ("gfn1.h5", "000000ff", '{"uri": "/data/gfn1.h5"}', "training"),
        ("held out.h5", "ffffffff", '{"uri": "/data/held out.h5"}', "validation"),
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"data.a": 1}', '{"data.a": "x"}', "[" * 100_000, "{" + "1" * 5000])
def test_unusable_checksums_are_ignored(folder, client, content):
    folder.mkdir()
    (folder / "data.json").write_text(content, encoding="utf-8")
    sink, _ = open_sink(folder, run_record("water", params={"data": {"a": {"b": 1}}}))
    assert sink.sink_write([scalars(1)]) == 1
    assert only_run(client).inputs.dataset_inputs == []


def test_parameters_have_dotted_names(folder, client):
    params = {"optimizer": {"lr": 1e-3, "betas": [0.9, None]}, "amp": True, "a[0]": "å", "a(0)": "", "x.y": 1}
    open_sink(folder, run_record("water", params=params | {"x": {"y": 2}}))
    assert only_run(client).data.params == {
        "optimizer.lr": "0.001",
        "optimizer.betas": "[0.9, null]",
        "amp": "true",
        "a_0_": "å",
        "a_0_:2": "",
        "x.y": "1",
        "x.y:2": "2",
    }


def test_many_and_long_parameters_are_stored_and_truncation_is_marked(folder, client):
    params: dict[str, Any] = {f"p{i}": i for i in range(250)} | {"long": "x" * 7000, "x" * 300: 1}
    open_sink(folder, run_record("water", params=params))
    stored = only_run(client).data.params
    assert len(stored) == 252
    assert (len(stored["long"]), stored["long"][-7:]) == (6000, "… (cut)")


def test_a_parameter_changed_by_an_attempt_is_a_tag_with_the_newest_value(folder, client):
    for attempt, rate in enumerate((1, 2, 1), 1):
        open_sink(folder, run_record("water", attempt=attempt, params={"lr": rate, "seed": 7}))
        data = only_run(client).data
        assert data.params == {"lr": "1", "seed": "7"}
        assert data.tags.get("telemetry.param.lr") == (None if attempt == 1 else str(rate))
        assert "telemetry.param.seed" not in data.tags


def test_a_rejected_parameter_is_left_out_and_the_others_are_stored(folder, client):
    def reject(real: Any, *args: Any, **kwargs: Any) -> None:
        if any(param.key == "p77" for param in kwargs["params"]):
            raise rejection()
        real.log_batch(*args, **kwargs)

    open_sink_with(folder, run_record("water", params={f"p{i}": i for i in range(150)}), log_batch=reject)
    assert len(only_run(client).data.params) == 149


@pytest.mark.parametrize(
    ("status", "expected"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("preempted", "KILLED"), ("killed", "KILLED")],
)
def test_a_closed_run_has_its_status_time_and_reason(folder, client, status, expected):
    sink, _ = open_sink(folder)
    sink.sink_write([scalars(1)])
    sink.sink_close(status, STARTED + 5000, "because")
    run = only_run(client)
    assert (run.info.status, run.info.end_time) == (expected, STARTED + 5000)
    assert (run.data.tags["telemetry.status"], run.data.tags["telemetry.reason"]) == (status, "because")


def test_a_closed_run_stays_closed_until_a_new_attempt(folder, client):
    open_sink(folder)[0].sink_close("killed", STARTED + 1, "")
    open_sink(folder)
    assert only_run(client).info.status == "KILLED"
    open_sink(folder, run_record("water", attempt=2))
    assert only_run(client).info.status == "RUNNING"


def test_time_zero_is_not_replaced_by_the_current_time(folder, client):
    sink, _ = open_sink(folder, run_record("water", started=0))
    sink.sink_close("finished", 0, "")
    assert (only_run(client).info.start_time, only_run(client).info.end_time) == (1, 1)


def test_opening_again_changes_nothing(folder, client):
    open_sink(folder)
    calls: list[str] = []

    def record_call(real: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(str(kwargs))

    open_sink_with(folder, log_batch=record_call, update_run=record_call)
    assert calls == []
