"""AIMNet2 on slices of the sample data: two fidelities, resumed, and stopped by a real signal."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest

from aimnet2mult.cli.sample_data import SAMPLE
from aimnet2mult.config.merge import write_yaml
from aimnet2mult.models.checkpoint_folder import iteration_of
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train
from support import tiny_model
from support.tiny_runs import newest_checkpoint
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Closed, Scalars

PREEMPTED = 128 + signal.SIGTERM
COMPONENTS = {
    "energy": {"fn": "aimnet2mult.train.loss.energy_loss_fn", "weight": 1.0},
    "forces": {
        "fn": "aimnet2mult.train.loss.peratom_loss_fn",
        "weight": 0.2,
        "kwargs": {"key_true": "forces", "key_pred": "forces"},
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a configuration of the first 40 structures of two sizes of both sample files."""
    folder = tmp_path_factory.mktemp("slices")
    for name in ("gfn1.h5", "spgfn2.h5"):
        with h5py.File(SAMPLE / name) as whole, h5py.File(folder / name, "w") as part:
            for size in ("003", "004"):
                for key, values in whole[size].items():
                    part[f"{size}/{key}"] = values[:40]
    content: dict[str, Any] = {
        "run_name": "slices",
        "threads": 1,
        "device": "cpu",
        "data": {
            "fidelity_datasets": {0: "gfn1.h5", 1: "spgfn2.h5"},
            "fidelity_names": {0: "gfn1", 1: "spgfn2"},
            "fidelity_weights": {1: 2.0},
            "samplers": {"train": {"batch_size": 8, "batches_per_epoch": 7}, "val": {"batch_size": 16}},
        },
        "optimizer": {"class": "torch.optim.Adam", "kwargs": {"lr": 2e-3}},
        "trainer": {"epochs": 2},
        "record_setup": False,
        "log_frequency": {"plots": 0},
        "telemetry": {"sinks": "none", "every": 5, "system": 0},
    }
    write_yaml(folder / "train.yaml", content)
    return folder / "train.yaml"


def points(run: Path) -> dict[tuple[str, int], dict[str, float]]:
    records = JournalReader(run).read(100_000, live=False)
    return {
        (record.stream, record.step): {name: value for name, value in record.values.items() if name != "it_per_s"}
        for record in records
        if isinstance(record, Scalars)
    }


def request(config: Path, runs: Path, *overrides: str) -> Request:
    return Request(
        configs=[config],
        model=SAMPLE / "model.yaml",
        overrides=[f"telemetry.dir={runs}", *overrides],
    )


def test_a_resumed_run_of_two_fidelities_equals_an_uninterrupted_one(config: Path, tmp_path: Path) -> None:
    loss = f"loss={{class: support.tiny_model.StoppingMTLoss, kwargs: {{components: {COMPONENTS}}}}}"
    assert train(request(config, tmp_path / "whole", loss)) == 0
    (whole,) = (tmp_path / "whole").iterdir()

    tiny_model.Stopping.calls_left = 6
    code = train(request(config, tmp_path / "pieces", loss))
    (run,) = (tmp_path / "pieces").iterdir()
    for _ in range(20):
        if code == 0:
            break
        assert code == PREEMPTED
        tiny_model.Stopping.calls_left = 6
        code = train(Request(resume=str(run)))
    assert len(list(run.glob("journal-*.jsonl"))) > 2
    assert points(run) == points(whole)

    last = points(whole)["val", 14]
    assert {"gfn1/E_rmse", "spgfn2/E_rmse", "spgfn2/s_rmse", "gfn1/E_atom_rmse"} <= set(last)
    # The first data set has no spin charges.
    assert "gfn1/s_rmse" not in last
    assert (run / "sae/gfn1.yaml").read_text() == (whole / "sae/gfn1.yaml").read_text()


@pytest.mark.slow
def test_sigterm_ends_the_process_after_a_checkpoint_and_the_run_can_be_resumed(config: Path, tmp_path: Path) -> None:
    arguments = ["--config", config, "--model", SAMPLE / "model.yaml", "--telemetry-dir", tmp_path / "runs"]
    arguments += ["--telemetry-sinks", "tensorboard", "trainer.epochs=100000", "telemetry.poll=0.2"]
    command = [sys.executable, "-m", "aimnet2mult.train.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGTERM)
                break
        out, rest = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED, "".join(lines) + rest
    assert "Traceback" not in rest
    (run,) = (tmp_path / "runs").iterdir()
    last = JournalReader(run).read(100_000, live=False)[-1]
    assert isinstance(last, Closed)
    assert last.status == "preempted"
    assert "records offered" in out
    newest = newest_checkpoint(run)
    step = iteration_of(newest)
    # The run resumes from the checkpoint, so there are no points after it.
    assert max(point[1] for point in points(run)) <= step

    epochs = step // 7 + 1
    assert train(Request(resume=str(run), overrides=[f"trainer.epochs={epochs}", "telemetry.sinks=none"])) == 0
    of = points(run)
    assert [key[1] for key in of if key[0] == "train_epoch"] == list(range(7, epochs * 7 + 1, 7))
    assert list(run.glob("tensorboard/events.out.tfevents.*"))
