"""Settings may name validation metrics that exist and for which the validation data have labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from aimnet2mult.data.loading import load_data
from aimnet2mult.errors import ConfigError
from aimnet2mult.train.validation_metrics import ValidationMetrics, find_validation_metrics
from support.labels import built_in
from support.tiny_runs import train_tiny, write_data

LABELS = ("energy", "charges")
REAL_LOSS = (
    "loss={class: aimnet2mult.train.loss.MTLoss, "
    "kwargs: {components: {energy: {fn: aimnet2mult.train.loss.energy_loss_fn, weight: 1}}}}"
)
OVERALL = ["E_rmse", "E_mae", "E_r2", "E_atom_rmse"]


def write(path: Path, labels: Mapping[str, Sequence[float]]) -> Path:
    """Write three-atom structures whose labels have the given value per structure, NaN for missing ones."""
    with h5py.File(write_data(path, len(next(iter(labels.values()))), 1), "r+") as file:
        for name, values in {"energy": None, "charges": None, **labels}.items():
            if values is None:
                del file["003"][name]
            else:
                data = file["003"][name]
                data[...] = np.reshape(values, (-1,) + (1,) * (data.ndim - 1))
    return path


def metrics_of(folder: Path, *validation: Mapping[str, Sequence[float]]) -> ValidationMetrics:
    """Return the validation metrics of a run with one fidelity for each mapping."""
    names = [f"level{n}" for n in range(len(validation))]
    data = load_data(
        [write_data(folder / f"train{n}.h5", 16, n) for n in range(len(validation))],
        labels=built_in(*LABELS),
        val_fraction=0.0,
        seed=0,
        batch_size=4,
        val_files={n: write(folder / f"val{n}.h5", labels) for n, labels in enumerate(validation)},
    )
    return find_validation_metrics(data, built_in(*LABELS), names)


def test_a_label_with_a_finite_value_has_metrics(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path, {"energy": [1.0, 2.0, 3.0], "charges": [np.nan] * 3})
    assert metrics.available == ["loss", *OVERALL]
    assert [metrics.find(name, "x") for name in ("E_r2", "val/E_r2", "val_E_r2")] == ["E_r2"] * 3


def test_r2_needs_two_different_values(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path, {"charges": [0.5, 0.5, np.nan]})
    assert metrics.available == ["loss", "q_rmse", "q_mae"]


def test_each_fidelity_has_the_metrics_of_its_own_labels(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path, {"energy": [1.0, 2.0]}, {"charges": [0.1, 0.2]})
    assert set(metrics.available) == {
        "loss",
        *OVERALL,
        *("q_rmse", "q_mae", "q_r2"),
        *(f"level0/{name}" for name in OVERALL),
        *("level1/q_rmse", "level1/q_mae", "level1/q_r2"),
    }
    with pytest.raises(ConfigError, match=r"x is 'level1/E_rmse', but the validation data have no labels for it"):
        metrics.find("level1/E_rmse", "x")


def test_data_without_labels_have_no_loss(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path, {"energy": [np.nan, np.nan]})
    with pytest.raises(ConfigError, match=r"x is 'loss', .* no labels for it; available: none, because there are no"):
        metrics.find("loss", "x")


@pytest.mark.parametrize(
    "setting",
    [
        "checkpoint.best=q_rmse",
        "scheduler={class: torch.optim.lr_scheduler.ReduceLROnPlateau, metric_name: q_rmse}",
    ],
)
def test_a_metric_that_no_validation_can_have_ends_the_run_before_its_first_iteration(
    tmp_path: Path, setting: str
) -> None:
    validation = write(tmp_path / "val.h5", {"energy": [1.0, 2.0]})
    with pytest.raises(ConfigError, match=r"is 'q_rmse', but the validation data have no labels for it; available"):
        train_tiny(tmp_path, setting, f"data.val_fidelity_datasets.0={validation}")
    assert not (tmp_path / "runs").exists()


def test_the_best_weights_may_be_those_of_a_component_of_the_loss(tmp_path: Path) -> None:
    run = train_tiny(tmp_path, REAL_LOSS, "checkpoint.best=loss_energy", "trainer.epochs=1")
    assert (run / "checkpoints" / "best.pt").is_file()


def test_the_number_of_skipped_structures_is_no_measure_of_weights(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"checkpoint.best is 'skipped_structures'; expected one of loss, loss_energy"
    ):
        train_tiny(tmp_path, REAL_LOSS, "checkpoint.best=skipped_structures")
