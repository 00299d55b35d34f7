"""Trainings started by `wandb agent` write to the runs that the sweep has chosen."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.wandb_kit import open_sink, records, seqs, wandb_cli
from support.wandb_server import Run, Sweep, WandbServer
from telemetry import Metric, RunRecord, Settings, open_run
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.journal.reader import read_header
from telemetry.plugins.registry import select
from telemetry.sink_api import Opened, SinkRejected
from telemetry.testing.points import run_record, sample, scalars

NOTE = "wandb-sweep.json"

TRAIN = """
import sys, telemetry
rate = float(sys.argv[1].removeprefix("optimizer.lr="))
metrics = {"val/loss": telemetry.Metric(better="lower")}
settings = telemetry.Settings(every=1, drain_timeout=60)
with telemetry.open_run(f"runs/{rate}", params={"optimizer": {"lr": rate}}, metrics=metrics, sinks=["wandb"],
                        settings=settings) as bus:
    for step in (1, 2, 3):
        bus.publish("val", step, {"loss": abs(step - 2) + rate})
"""


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment in which `wandb agent` starts a training."""
    values = {"SWEEP_ID": "s1", "RUN_ID": "trial-1", "PROJECT": "water", "ENTITY": "chemists"}
    for name, value in values.items():
        monkeypatch.setenv(f"WANDB_{name}", value)


def leave_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Continue outside the agent, as in another process."""
    import wandb

    wandb.teardown()
    for name in ("SWEEP_ID", "RUN_ID", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}")


def open_online(folder: Path, run: RunRecord | None = None, **options: str) -> Opened:
    return open_sink(folder, run, mode="online", **options)[1]


def test_the_agent_fills_the_runs_of_its_sweep_and_a_later_delivery_continues_them(
    tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", TRAIN, "${args_no_hyphens}"]
    config = json.dumps({"command": command, "method": "random"})
    trials = {"trial-1": {"optimizer.lr": 0.25}, "trial-2": {"optimizer.lr": 0.5}}
    wandb_server.sweeps["s1"] = Sweep(config, "water", dict(trials))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb_cli(tmp_path, "agent", "chemists/water/s1")
    assert wandb_server.runs.keys() == {("water", "trial-1"), ("water", "trial-2")}
    for (_, name), run in wandb_server.runs.items():
        rate = trials[name]["optimizer.lr"]
        assert [row["best/val/loss"] for row in run.history] == [1 + rate, rate, rate]
        assert (run.summary["best/val/loss"], run.exit_code, run.fields["sweep"]) == (rate, 0, "s1")
        assert run.config["optimizer.lr"]["value"] == run.config["optimizer"]["value"]["lr"] == rate

    folder = tmp_path / "runs" / "0.25"
    bus = open_run(
        folder, metrics={"val/loss": Metric(better="lower")}, sinks=[], settings=Settings(every=1), resume_step=2
    )
    bus.publish("val", 3, {"loss": 0.125})
    bus.close()
    (sink,) = select(["wandb"], {})
    delivery = Delivery(folder, sink, Settings(), follow=False)
    assert delivery.lease.try_acquire()
    assert delivery.run() is DeliveryOutcome.COMPLETE
    run = wandb_server.runs["water", "trial-1"]
    assert [row["trainer/iteration"] for row in run.history] == [1, 2, 3, 3]
    assert (len(wandb_server.runs), run.summary["best/val/loss"]) == (2, 0.125)
    assert read_header(folder).attempt == 2
    assert run.config["optimizer.lr"]["value"] == 0.25, "the sweep looks for its own names"


@pytest.mark.usefixtures("agent", "wandb_server")
def test_project_and_owner_are_those_of_the_sweep_in_all_later_deliveries(
    tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = f"{wandb_server.url}, chemists/water, run trial-1"
    assert open_online(tmp_path, project="another", entity="somebody").destination == destination
    leave_agent(monkeypatch)
    assert open_online(tmp_path, project="another", entity="somebody").destination == destination
    assert open_online(tmp_path / "other run").destination.startswith(
        f"{wandb_server.url}, chemists/uncategorized, run "
    )


@pytest.mark.usefixtures("agent")
def test_files_have_the_id_of_the_run_of_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, found = open_sink(tmp_path)
    sink.sink_write(sample(1, 3))
    sink.sink_close("finished", "")
    (run,) = records(tmp_path, "run")
    assert (run["run_id"], run["sweep_id"], run["project"], run["entity"]) == ("trial-1", "s1", "water", "chemists")
    assert "display_name" not in run, "W&B names the runs of a sweep"
    leave_agent(monkeypatch)
    sink, again = open_sink(tmp_path)
    assert (again.destination, again.last_seq) == (found.destination, 3)
    sink.sink_write([scalars(4)])
    sink.sink_close("finished", "")
    assert seqs(tmp_path) == [1, 2, 3, 4]
    assert {run["run_id"] for run in records(tmp_path, "run")} == {"trial-1"}


def test_a_run_folder_cannot_name_a_run_with_points_of_another_one(tmp_path: Path, wandb_server: WandbServer) -> None:
    note = {"run_id": "mine", "sweep_id": "s", "project": "water", "entity": "chemists"}
    own = run_record("mine", started=1)
    sink, _ = open_sink(tmp_path / "mine", own, mode="online", project="water")
    sink.sink_write(sample(1, 3))
    sink.sink_close("finished", "")
    ((_, run_id),) = wandb_server.runs
    folder = tmp_path / "from somebody else"
    folder.mkdir()
    (folder / NOTE).write_text(json.dumps(note | {"run_id": run_id}), encoding="utf-8")
    with pytest.raises(SinkRejected, match=rf"runs/{run_id} already contains another run"):
        open_online(folder, run_record("theirs", started=2))
    # Without points, nothing of another run can be changed.
    wandb_server.runs["water", "empty"] = Run("empty", "water")
    (folder / NOTE).write_text(json.dumps(note | {"run_id": "empty"}), encoding="utf-8")
    assert open_online(folder, run_record("theirs", started=2)).last_seq == 0


@pytest.mark.usefixtures("agent")
def test_an_agent_with_another_run_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_sink(tmp_path)
    leave_agent(monkeypatch)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial-2")
    with pytest.raises(SinkRejected, match=r"belongs to run trial-1 of sweep s1, but WANDB_RUN_ID is 'trial-2'; unset"):
        open_sink(tmp_path)


@pytest.mark.parametrize("run_id", [None, "*", "a b", "x" * 129])
@pytest.mark.usefixtures("agent")
def test_a_sweep_without_a_valid_run_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_id: str | None
) -> None:
    if run_id is None:
        monkeypatch.delenv("WANDB_RUN_ID")
    else:
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
    with pytest.raises(SinkRejected, match="start the training with `wandb agent`"):
        open_sink(tmp_path)
    assert not (tmp_path / NOTE).exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"run_id": "../x", "sweep_id": "s", "project": "p", "entity": null}', "1" * 5000]
)
def test_a_damaged_note_of_the_run_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / NOTE).write_text(content, encoding="utf-8")
    with pytest.raises(SinkRejected, match=rf"{NOTE} is damaged"):
        open_sink(tmp_path)
