"""A training run of an earlier version is resumed from its checkpoint and continues as if never interrupted."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from support.file_contents import read_content, read_weights
from support.golden_runs import V1, copy, expected, expected_rows, output_of, run_command
from telemetry import read_receipt, read_run

torch = pytest.importorskip("torch")
pytest.importorskip("aimnet")

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copy(tmp_path) / expected("trained")["folder"]


def test_it_continues_from_the_checkpoint_exactly(run: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    output_of(
        "aimnet2mult", "train", "--resume", run, "--save", weights, "--telemetry-sinks", "none", "trainer.epochs=4"
    )

    read = read_run(run)
    assert (read.status, read.header.attempt, read.header.run_id) == ("finished", 2, run.name)
    # The units of a run never change, although new runs have kcal/mol/atom.
    assert read.header.metrics["val/E_atom_rmse"].unit == "kcal/mol"
    assert read.curves["train/loss"].steps.tolist() == list(range(1, 21))
    before = [row.value for row in expected_rows("trained") if row.name == "train/loss"]
    assert read.curves["train/loss"].values[:10].tolist() == before
    whole = json.loads((V1 / "expected" / "trained-whole.json").read_text())
    loss = read.curves["val/loss"]
    assert loss.steps.tolist() == [int(step) for step in whole] == [5, 10, 15, 20]
    assert loss.values.tolist() == pytest.approx(list(whole.values()), rel=1e-4)

    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["best.pt", "step-00000020.pt"]
    state = read_weights(weights)
    assert state.keys() == read_weights(run / "checkpoints" / "best.pt").keys()
    (tensorboard,) = read_receipt(run).sinks
    assert (tensorboard.name, tensorboard.delivered) == ("tensorboard", 24)
    assert tensorboard.pending == read_receipt(run).journaled - 24


def test_its_event_files_are_continued_exactly_once(run: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output_of("aimnet2mult", "train", "--resume", run, "trainer.epochs=3", "telemetry.drain_timeout=100")
    shown = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in shown.Scalars("train/loss")] == list(range(1, 16))
    assert [event.step for event in shown.Scalars("val/loss")] == [5, 10, 15]
    (tensorboard,) = read_receipt(run).sinks
    assert (tensorboard.pending, tensorboard.delivered) == (0, read_receipt(run).journaled)


def test_the_training_settings_cannot_be_changed(run: Path) -> None:
    done = run_command("aimnet2mult", "train", "--resume", run, "optimizer.kwargs.lr=1.0", "trainer.epochs=4")
    assert done.returncode == 2
    assert "optimizer.kwargs.lr was 0.002" in done.stderr
    assert not (run / "journal-1.jsonl").exists()


def test_a_finished_run_without_its_checkpoint_is_not_trained_again(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    done = run_command("aimnet2mult", "train", "--resume", run, "--telemetry-sinks", "none")
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {run} has finished, but has no checkpoint to continue from; start a new run\n",
    )
    assert not (run / "journal-1.jsonl").exists()


def test_a_run_that_left_out_bad_structures_leaves_out_the_same_ones(tmp_path: Path) -> None:
    run = copy(tmp_path) / expected("skipping")["folder"]
    checksums = json.loads((run / "data.json").read_text())
    output_of("aimnet2mult", "train", "--resume", run, "--telemetry-sinks", "none", "trainer.epochs=4")

    whole = json.loads((V1 / "expected" / "skipping-whole.json").read_text())
    loss = read_run(run).curves["val/loss"]
    assert loss.steps.tolist() == [int(step) for step in whole] == [5, 10, 15, 20]
    assert loss.values.tolist() == pytest.approx(list(whole.values()), rel=1e-4)
    assert json.loads((run / "data.json").read_text()) == checksums
    with (run / "skipped-structures.csv").open(newline="") as file:
        skipped = [(Path(row["file"]).name, row["group"], row["row"]) for row in csv.DictReader(file)]
    assert skipped == [("two-bad.h5", "004", "3"), ("two-bad.h5", "004", "17")]


def test_an_array_task_finds_its_run_and_continues_it_on_linked_data(tmp_path: Path) -> None:
    run = copy(tmp_path) / expected("scheduled")["folder"]
    settings = ("--config", run / "train.yaml", "--model", run / "model.yaml", "--telemetry-dir", run.parent)
    task = {"SLURM_JOB_ID": "4713", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "2"}
    output_of("aimnet2mult", "train", *settings, "--resume", "auto", "trainer.epochs=4", **task)

    assert read_run(run).header.attempt == 2
    whole = json.loads((V1 / "expected" / "scheduled-whole.json").read_text())
    loss = read_run(run).curves["val/loss"]
    assert loss.steps.tolist() == [int(step) for step in whole] == [5, 10, 15, 20]
    assert loss.values.tolist() == pytest.approx(list(whole.values()), rel=1e-4)


def test_a_run_with_all_evaluations_continues_on_the_same_split(tmp_path: Path) -> None:
    run = copy(tmp_path) / expected("evaluated")["folder"]
    split = (run / "split.npz").read_bytes()
    output_of("aimnet2mult", "train", "--resume", run, "--telemetry-sinks", "none", "trainer.epochs=4")

    whole = json.loads((V1 / "expected" / "evaluated-whole.json").read_text())
    curves = read_run(run).curves
    assert curves["val/loss"].steps.tolist() == [int(step) for step in whole] == [5, 10, 15, 20]
    assert curves["val/loss"].values.tolist() == pytest.approx(list(whole.values()), rel=1e-4)
    assert curves["train_eval/loss"].steps.tolist() == [5, 10, 15, 20]
    assert curves["test/loss"].steps.tolist() == [10, 20]
    assert (run / "split.npz").read_bytes() == split


def test_a_run_on_data_on_disk_continues_there_and_replaces_the_best_weights(tmp_path: Path) -> None:
    run = copy(tmp_path) / expected("large")["folder"]
    whole = json.loads((V1 / "expected" / "large-whole.json").read_text())
    best = run / "checkpoints" / "best.pt"
    assert read_content(best)["best"] == {"iteration": 10, "metric": "loss", "value": whole["10"]}
    output_of("aimnet2mult", "train", "--resume", run, "--telemetry-sinks", "none", "trainer.epochs=4")

    loss = read_run(run).curves["val/loss"]
    assert loss.steps.tolist() == [int(step) for step in whole] == [5, 10, 15, 20]
    assert loss.values.tolist() == pytest.approx(list(whole.values()), rel=1e-4)
    assert read_content(best)["best"] == {"iteration": 20, "metric": "loss", "value": loss.values[-1]}
