"""Structures without finite predictions, and losses other than the built-in one."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.evaluate import evaluate
from aimnet2mult.evaluation.request import Request
from aimnet2mult.train.plan import Request as TrainingRequest
from aimnet2mult.train.runner import train
from support.plain_runs import PLAIN
from support.tiny_runs import points, write_data


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Train a model that predicts NaN for structures that are far from the origin."""
    (tmp_path / "model.yaml").write_text("class: support.tiny_model.FragileCore\n")
    overrides = [
        f"data.fidelity_datasets.0={write_data(tmp_path / 'a.h5', 16, 0)}",
        "data.y=[energy, charges]",
        "data.val_fraction=0.25",
        "data.samplers.train.batch_size=4",
        "data.samplers.val.batch_size=3",
        "loss.class=support.tiny_model.SquaredLoss",
        "optimizer={class: torch.optim.Adam, kwargs: {lr: 0.1}}",
        "optimizer.param_groups.shifts=null",
        "trainer.epochs=1",
        "telemetry.sinks=none",
        *PLAIN,
        f"telemetry.dir={tmp_path / 'runs'}",
    ]
    assert train(TrainingRequest(overrides=overrides, model=tmp_path / "model.yaml")) == 0
    return next((tmp_path / "runs").iterdir())


def test_the_values_of_a_loss_without_components_are_those_of_the_validation(run: Path) -> None:
    (recorded,) = points(run).values()
    found = evaluate(Request(model=run), Communicator(), print)[0].metrics
    assert {name: found.get(name) for name in recorded if name != "epoch"} == {
        name: value for name, value in recorded.items() if name != "epoch"
    }


def test_structures_without_finite_predictions_are_left_out_and_named(run: Path, tmp_path: Path) -> None:
    path = write_data(tmp_path / "b.h5", 10, 1)
    clean = evaluate(Request(model=run, files=[path]), Communicator(), print)[0]
    with h5py.File(path, "r+") as file:
        group = file["003"]
        arrays = {key: np.concatenate([array[:], array[:2]]) for key, array in group.items()}
        arrays["coord"][10:, :, 0] += 20
        for key, array in arrays.items():
            del group[key]
            group[key] = array
    result = evaluate(Request(model=run, files=[path]), Communicator(), print)[0]
    assert result.not_finite == [f"{path}, group 003, row 10", f"{path}, group 003, row 11"]
    assert result.metrics["skipped_structures"] == 2
    assert result.metrics["E_structures"] == 10
    for name in ("E_rmse", "E_mae", "E_max", "q_rmse", "q_max", "E_atom_mae"):
        assert result.metrics[name] == pytest.approx(clean.metrics[name], rel=1e-6)
    assert {each.row for each in result.worst["E"]} <= set(range(10))


def test_results_are_nan_if_no_prediction_is_finite(run: Path, tmp_path: Path) -> None:
    path = write_data(tmp_path / "b.h5", 4, 1)
    with h5py.File(path, "r+") as file:
        file["003/coord"][:, :, 0] += 20
    result = evaluate(Request(model=run, files=[path]), Communicator(), print)[0]
    assert len(result.not_finite) == 4
    assert result.to_dict()["metrics"]["E_rmse"] == "NaN"
    assert result.worst == {"E": [], "q": []}
