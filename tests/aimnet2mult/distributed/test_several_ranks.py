"""Training with several processes: same curves and weights as with one; stopped, resumed and killed."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from aimnet2mult.config.merge import write_yaml
from aimnet2mult.data.dataset import INPUTS
from aimnet2mult.data.loading import load_data
from aimnet2mult.models.checkpoint_folder import diverged_path, find_newest, iteration_of
from support.double_precision import Double, add_masks
from support.file_contents import read_content, read_weights
from support.labels import built_in
from support.rank_jobs import Job, Launcher, slurm_environments, torchrun_environments
from support.tiny_runs import newest_checkpoint
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Closed, Scalars

LABELS = ("energy", "forces", "charges", "spin_charges")
EPOCHS, EVERY = 2, 3
Points = dict[tuple[str, int], dict[str, float]]


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with Launcher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return files of two fidelities, the first without spin charges, with labels missing here and there."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    contents = (
        ("low", LABELS[:3], {3: 30, 4: 11}),
        ("high", LABELS, {3: 7, 4: 20}),
        ("test", LABELS, {3: 9, 4: 4}),
    )
    for name, labels, counts in contents:
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for atoms, structures in counts.items():
                shapes = {"energy": (), "forces": (atoms, 3), "charges": (atoms,), "spin_charges": (atoms,)}
                group = file.create_group(f"{atoms:03d}")
                group["coord"] = rng.normal(size=(structures, atoms, 3))
                group["numbers"] = rng.choice([1, 6, 8], size=(structures, atoms))
                for label in labels:
                    values = rng.normal(size=(structures, *shapes[label]))
                    values[rng.random(structures) < 0.2] = np.nan
                    group[label] = values
    return [folder / "low.h5", folder / "high.h5"]


@pytest.fixture(scope="module")
def arguments(files: list[Path]) -> list[str]:
    folder = files[0].parent
    write_yaml(folder / "model.yaml", {"class": "support.double_precision.Double"})
    per_atom = {"fn": "aimnet2mult.train.loss.peratom_loss_fn", "weight": 1.0}
    components: dict[str, Any] = {"energy": {"fn": "aimnet2mult.train.loss.energy_loss_fn", "weight": 0.5}}
    components |= {name: {**per_atom, "kwargs": {"key_true": name, "key_pred": name}} for name in LABELS[1:]}
    content: dict[str, Any] = {
        "run_name": "ranks",
        "device": "cpu",
        "threads": 1,
        "data": {
            "fidelity_datasets": dict(enumerate(map(str, files))),
            "test_fidelity_datasets": {1: str(folder / "test.h5")},
            "fidelity_names": {0: "low", 1: "high"},
            "fidelity_weights": {1: 2.0},
            "val_fraction": 0.3,
            # Fewer structures than four ranks, and not always the same number.
            "samplers": {"train": {"batch_size": 3}, "val": {"batch_size": 5}},
        },
        "fidelity_offset": 100,
        "use_fidelity_readouts": False,
        "loss": {"class": "support.double_precision.MaskedLoss", "kwargs": {"components": components}},
        # Adam would amplify gradients that consist of rounding errors.
        "optimizer": {
            "class": "torch.optim.SGD",
            "kwargs": {"lr": 0.01, "momentum": 0.9},
            "param_groups": {"shifts": None},
        },
        "scheduler": {
            "class": "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "kwargs": {"patience": 0, "threshold": 0.5},
        },
        "trainer": {"epochs": EPOCHS, "evaluate_train_every": 2},
        "checkpoint": {"best": "E_rmse"},
        "log_frequency": {"val": 8},
        "telemetry": {"sinks": "none", "every": EVERY, "system": 0},
    }
    write_yaml(folder / "train.yaml", content)
    return ["train", "--config", str(folder / "train.yaml"), "--model", str(folder / "model.yaml")]


@pytest.fixture(scope="module")
def one(launcher: Launcher, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of one process."""
    folder = tmp_path_factory.mktemp("one")
    job = launcher.start(folder / "job", [*arguments, "--telemetry-dir", folder / "runs"])
    assert job.wait() == [0], job.stderr(0)
    return the_run(folder)


@pytest.fixture(scope="module")
def two(launcher: Launcher, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job]:
    """Return the run of two processes, and the job."""
    folder = tmp_path_factory.mktemp("two")
    # Plots reduce further sums.
    sink = ["--telemetry-sinks", "tensorboard", "telemetry.poll=0.1", "log_frequency.plots=0"]
    job = launcher.start(
        folder / "job",
        [*arguments, *sink, "--telemetry-dir", folder / "runs", "--save", folder / "weights.pt"],
        torchrun_environments(2),
    )
    assert job.wait() == [0, 0], job.stderr(0)
    return the_run(folder), job


@pytest.fixture(scope="module")
def stopped(launcher: Launcher, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job]:
    """Return the run of four processes in a SLURM step, one of which got SIGTERM, and the job."""
    folder = tmp_path_factory.mktemp("four")
    environments = [{**environment, "MISHAP": "3:4:SIGTERM"} for environment in slurm_environments(4)]
    job = launcher.start(folder / "job", [*arguments, "--telemetry-dir", folder / "runs"], environments)
    job.wait()
    return the_run(folder), job


def the_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def records(run: Path) -> list[Any]:
    return JournalReader(run).read(100_000, live=False)


def points(run: Path) -> Points:
    return {
        (record.stream, record.step): {name: value for name, value in record.values.items() if name != "it_per_s"}
        for record in records(run)
        if isinstance(record, Scalars)
    }


def closed(run: Path) -> Closed:
    last = records(run)[-1]
    assert isinstance(last, Closed)
    return last


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = parts(run)["model"]
    return state


def parts(run: Path) -> dict[str, Any]:
    """Return the states in the newest checkpoint."""
    found: dict[str, Any] = read_content(newest_checkpoint(run))["parts"]
    return found


def assert_same(run: Path, other: Path) -> None:
    mine, theirs = points(run), points(other)
    assert mine.keys() == theirs.keys()
    for key, values in theirs.items():
        assert mine[key] == pytest.approx(values, rel=1e-9, abs=1e-12), key
    for name, values in weights(other).items():
        torch.testing.assert_close(weights(run)[name], values, rtol=1e-9, atol=1e-12)


def test_two_ranks_produce_the_curves_and_weights_of_one(one: Path, two: tuple[Path, Job]) -> None:
    run, _ = two
    assert closed(run).status == "finished"
    assert len([key for key in points(run) if key[0] == "train_window"]) > 8
    assert_same(run, one)


def test_four_ranks_produce_the_same_although_a_batch_has_fewer_structures(
    launcher: Launcher, one: Path, arguments: list[str], tmp_path: Path
) -> None:
    # After a restart by torchrun, they must not use its old rendezvous store.
    again = {"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    environments = [environment | again for environment in torchrun_environments(4)]
    job = launcher.start(tmp_path / "job", [*arguments, "--telemetry-dir", tmp_path / "runs"], environments)
    assert job.wait() == [0] * 4, job.stderr(0)
    assert_same(the_run(tmp_path), one)


def test_two_ranks_that_process_batches_in_parts_and_average_weights_produce_the_same_as_one(
    launcher: Launcher, one: Path, arguments: list[str], tmp_path: Path
) -> None:
    runs = []
    for ranks, options in ((1, []), (2, ["trainer.micro_batches=2"])):
        folder = tmp_path / str(ranks)
        given = [*arguments, "trainer.ema_decay=0.9", *options, "--telemetry-dir", folder / "runs"]
        # Batches of three structures, so that a part may be empty.
        job = launcher.start(folder / "job", given, torchrun_environments(ranks) if ranks > 1 else [{}])
        assert job.wait() == [0] * ranks, job.stderr(0)
        runs.append(the_run(folder))
    assert_same(runs[1], runs[0])
    averages = [parts(run)["average"] for run in runs]
    torch.testing.assert_close(averages[1], averages[0], rtol=1e-9, atol=1e-12)
    # The average has no effect on the training.
    for name, values in weights(one).items():
        torch.testing.assert_close(weights(runs[1])[name], values, rtol=1e-9, atol=1e-12)


def test_weights_saved_by_two_ranks_are_those_of_the_unwrapped_model(two: tuple[Path, Job]) -> None:
    run, job = two
    saved = read_weights(job.folder.parent / "weights.pt")
    assert saved.keys() == Double().state_dict().keys()
    assert weights(run).keys() == {f"module.{name}" for name in saved}


def test_validation_metrics_agree_with_numpy(two: tuple[Path, Job], files: list[Path]) -> None:
    run, _ = two
    step = max(step for stream, step in points(run) if stream == "val")
    model = Double()
    state = read_content(run / f"checkpoints/step-{step:08d}.pt")["parts"]["model"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    data = load_data(
        files,
        labels=built_in(*LABELS),
        val_fraction=0.3,
        seed=0,
        batch_size=3,
        sae_files={i: run / f"sae/{name}.yaml" for i, name in enumerate(("low", "high"))},
    )
    errors: dict[str, list[Any]] = {name: [] for name in ("E", "q", "s", "high/q", "low/q")}
    for group in data.val.groups:
        x = {key: torch.from_numpy(group[key]) for key in INPUTS}
        y: dict[str, Any] = {key: torch.from_numpy(group[key]) for key in LABELS}
        add_masks(x, y)
        with torch.no_grad():
            out = {key: value.numpy() for key, value in model(dict(x)).items()}
        real, fidelity = group["numbers"] != 0, group["fidelity"]
        errors["E"].extend((out["energy"] - group["energy"])[y["energy_mask"].numpy()])
        for abbr, label in (("q", "charges"), ("s", "spin_charges")):
            error = out[label] - group[label]
            errors[abbr].extend(error[real])
            if abbr == "q":
                errors["low/q"].extend(error[fidelity == 0][real[fidelity == 0]])
                errors["high/q"].extend(error[fidelity == 1][real[fidelity == 1]])
    shown = points(run)["val", step]
    for name, error in errors.items():
        rmse = np.sqrt(np.nanmean(np.square(error)))
        # kcal/mol for eV.
        factor = 23.060547830619 if name == "E" else 1.0
        assert shown[f"{name}_rmse"] == pytest.approx(rmse * factor, rel=1e-9), name
    assert "low/s_rmse" not in shown


def test_only_the_first_rank_starts_processes_and_prints(two: tuple[Path, Job]) -> None:
    _, job = two
    assert job.events(0)["started"]
    assert job.events(1)["started"] == job.events(1)["imported"] == []
    assert "epoch 2/2" in job.stderr(0)
    assert all(re.search(rf"^{name}: \d+ training structures", job.stderr(0), re.MULTILINE) for name in ("low", "high"))
    assert job.stderr(1) == (job.folder / "out-1").read_text() == ""


def test_sums_are_reduced_only_when_due(two: tuple[Path, Job]) -> None:
    run, job = two
    of = points(run)
    added = [tuple(shape) for shape in job.events(1)["reduced"]]
    assert added == [tuple(shape) for shape in job.events(0)["reduced"]]
    training = [shape for shape in added if len(shape) == 2 and shape == min(s for s in added if len(s) == 2)]
    validation = [shape for shape in added if len(shape) == 2 and shape not in training]
    due = len([key for key in of if key[0] == "train"])
    # There is also a checkpoint for each epoch and after the test; the first batch is shown on the console.
    assert len(training) == 1 + due + 2 * EPOCHS + 1
    evaluations = [key[0] for key in of if key[0] in ("val", "train_eval", "test")]
    assert {"train_eval", "test"} < set(evaluations)
    assert len(validation) == len(evaluations)
    # The flags of skipped structures, and the counts of the four components of the loss of each batch.
    flags = [shape for shape in added if len(shape) < 2 and shape != (4,)]
    structures = {"val": 20, "train_eval": 48, "test": 13}
    assert flags == [(structures[stream],) for stream in evaluations]


def test_a_signal_to_one_rank_stops_all_at_the_same_iteration(stopped: tuple[Path, Job]) -> None:
    run, job = stopped
    assert job.codes == [143] * 4, job.stderr(0)
    assert "waiting" not in job.stderr(0)
    newest = newest_checkpoint(run)
    assert 4 <= iteration_of(newest) < 20
    assert closed(run).status == "preempted"
    assert [job.stderr(rank) for rank in (1, 2, 3)] == [""] * 3


def test_a_run_resumed_with_other_numbers_of_ranks_equals_one_on_a_single_rank(
    launcher: Launcher, one: Path, stopped: tuple[Path, Job], arguments: list[str]
) -> None:
    run, job = stopped
    resumed = [*arguments, "--telemetry-dir", run.parent, "--resume", "auto"]
    # The second validation is interrupted, and repeated.
    environments = [{**environment, "MISHAP": "1:v8:SIGTERM"} for environment in torchrun_environments(2)]
    again = launcher.start(job.folder.with_name("again"), resumed, environments)
    assert again.wait() == [143, 143], again.stderr(0)
    assert closed(run).status == "preempted"
    last = launcher.start(job.folder.with_name("last"), resumed, torchrun_environments(3))
    assert last.wait() == [0, 0, 0], last.stderr(0)
    assert closed(run).status == "finished"
    assert_same(run, one)


@pytest.mark.parametrize(
    ("mishap", "reason"),
    [
        ("1:9:SIGKILL", r"lost contact with rank 1, which has died or is disconnected: .*"),
        ("1:9:raise", r"rank 1 failed: ArithmeticError: the sum is wrong"),
        ("0:9:raise", r"ArithmeticError: the sum is wrong"),
    ],
)
def test_a_failing_rank_ends_the_job_and_the_run_records_the_reason(
    launcher: Launcher, arguments: list[str], tmp_path: Path, mishap: str, reason: str
) -> None:
    began = time.monotonic()
    environments = [{**environment, "MISHAP": mishap} for environment in torchrun_environments(2)]
    job = launcher.start(tmp_path / "job", [*arguments, "--telemetry-dir", tmp_path / "runs"], environments)
    assert job.wait() == [1, -9 if "KILL" in mishap else 1]
    assert time.monotonic() - began < 60
    last = closed(the_run(tmp_path))
    assert last.status == "failed"
    assert re.fullmatch(reason, last.reason)
    assert last.reason in job.stderr(0)
    # Only the failing rank prints a traceback; everything else is reported once.
    assert ("Traceback" in job.stderr(0), "Traceback" in job.stderr(1)) == (
        mishap == "0:9:raise",
        mishap == "1:9:raise",
    )
    assert job.stderr(1) == "" or mishap == "1:9:raise"


def test_killing_the_first_rank_ends_the_others(launcher: Launcher, arguments: list[str], tmp_path: Path) -> None:
    environments = [{**environment, "MISHAP": "0:9:SIGKILL"} for environment in torchrun_environments(2)]
    job = launcher.start(tmp_path / "job", [*arguments, "--telemetry-dir", tmp_path / "runs"], environments)
    assert job.wait() == [-9, 1]
    # In addition to what torch prints.
    assert re.search(
        r"^error: lost contact with rank 0, which has died or is disconnected: .*$", job.stderr(1), re.MULTILINE
    )


def test_an_error_of_another_rank_is_reported_by_the_first(
    launcher: Launcher, arguments: list[str], tmp_path: Path
) -> None:
    environments = [{**environment, "MISHAP": "1:build:raise"} for environment in torchrun_environments(2)]
    job = launcher.start(tmp_path / "job", [*arguments, "--telemetry-dir", tmp_path / "runs"], environments)
    assert job.wait() == [1, 2]
    assert re.search(r"^error: rank 1 on \S+: ModelError: \S+: no such model here$", job.stderr(0), re.MULTILINE)
    assert job.stderr(1) == ""
    assert closed(the_run(tmp_path)).status == "failed"


def test_a_user_error_is_reported_once(launcher: Launcher, arguments: list[str], tmp_path: Path) -> None:
    wrong = [*arguments, "--telemetry-dir", tmp_path / "runs", "data.val_fraction=1e-9"]
    job = launcher.start(tmp_path / "job", wrong, torchrun_environments(2))
    assert job.wait() == [2, 2]
    assert "error: val_fraction 1e-09 of 68 structures leaves none for validation" in job.stderr(0)
    assert job.stderr(1) == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("then", ["warn", "stop"])
def test_all_ranks_handle_a_divergence_alike(
    launcher: Launcher, arguments: list[str], tmp_path: Path, then: str
) -> None:
    wild = ["optimizer.kwargs.lr=1e300", "trainer.clip_grad_value=null"]
    diverging = [*arguments, "--telemetry-dir", tmp_path / "runs", *wild]
    job = launcher.start(tmp_path / "job", [*diverging, "--telemetry-on-divergence", then], torchrun_environments(2))
    assert job.wait() == [3, 3], job.stderr(0)
    last = closed(the_run(tmp_path))
    assert last.status == "failed"
    # With warn, the weights are so large that no further step is finite. Neither leaves a checkpoint of them.
    assert last.reason.startswith({"stop": "diverged: ", "warn": "loss or gradient not finite in 20 training"}[then])
    assert find_newest(the_run(tmp_path)) is None
    assert diverged_path(the_run(tmp_path)).is_file()
    assert job.stderr(1) == ""


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_all(
    launcher: Launcher, arguments: list[str], tmp_path: Path
) -> None:
    single, pair = tmp_path / "one", tmp_path / "two"
    job = launcher.start(single / "job", [*arguments, "--telemetry-dir", single / "runs"], [{"MISHAP": ":7:nan"}])
    assert job.wait() == [0], job.stderr(0)
    environments = [{**environment, "MISHAP": "1:7:nan"} for environment in torchrun_environments(2)]
    job = launcher.start(pair / "job", [*arguments, "--telemetry-dir", pair / "runs"], environments)
    assert job.wait() == [0, 0], job.stderr(0)
    # If a rank had taken the step, the ranks would have different weights from then on.
    assert_same(the_run(pair), the_run(single))
    skipped = {
        step: values["skipped_steps"]
        for (name, step), values in points(the_run(pair)).items()
        if name == "train_window"
    }
    assert sum(skipped.values()) == skipped[9] == 1
    assert job.stderr(0).count("iteration 7: step skipped") == 1
    assert job.stderr(1) == ""


def test_all_ranks_stop_after_a_bad_step_on_request(launcher: Launcher, arguments: list[str], tmp_path: Path) -> None:
    stopping = [*arguments, "--telemetry-dir", tmp_path / "runs", "trainer.on_bad_step=stop"]
    environments = [{**environment, "MISHAP": "1:7:nan"} for environment in torchrun_environments(2)]
    job = launcher.start(tmp_path / "job", stopping, environments)
    assert job.wait() == [3, 3], job.stderr(0)
    last = closed(the_run(tmp_path))
    assert last.status == "failed"
    assert last.reason.startswith("loss or gradient not finite in the training step at iteration 7: ")
    assert iteration_of(newest_checkpoint(the_run(tmp_path))) >= 7
    assert job.stderr(1) == ""
