"""The values of a resumed run, read back from three backends, are those recomputed in NumPy from the predictions."""

from collections.abc import Iterable

import pytest

pytest.importorskip("wandb")
pytest.importorskip("mlflow")

from support.mlflow_kit import IGNORE_NOLOAD, client_of, only_run, quiet
from support.mlflow_kit import points as mlflow_points
from support.oracle_attempts import ResumedRun
from support.published_values import Points, assert_agree
from support.tensorboard_contract import TensorBoardKit
from support.wandb_kit import config as wandb_config
from support.wandb_kit import points as wandb_points
from support.wandb_kit import rows as wandb_rows
from telemetry.testing import Point

pytestmark = [IGNORE_NOLOAD, pytest.mark.slow]
UNITS = {
    "E_rmse": "kcal/mol",
    "E_atom_rmse": "kcal/mol/atom",
    "E_mae": "kcal/mol",
    "F_rmse": "kcal/mol/Å",
    "F_mae": "kcal/mol/Å",
    "q_rmse": "e",
    "q_mae": "e",
    "s_rmse": "e",
    "s_mae": "e",
    "it_per_s": "1/s",
}


def as_points(shown: Iterable[Point]) -> Points:
    """Return the values without their speed; of several at an iteration, the last one counts."""
    found: Points = {}
    for point in shown:
        stream, _, metric = point.name.partition("/")
        assert point.unit == UNITS.get(metric.rpartition("/")[2], "1")
        if metric != "it_per_s":
            found.setdefault((stream, point.step), {})[metric] = point.value
    return found


def test_tensorboard_shows_one_curve_of_the_values(resumed: ResumedRun) -> None:
    shown = list(TensorBoardKit().read_back(resumed.folder))
    assert len(shown) == len({(point.name, point.step) for point in shown})
    assert_agree(as_points(shown), resumed.expected, double=1e-6, single=2e-6)


def test_mlflow_has_the_values_and_those_that_they_supersede(resumed: ResumedRun) -> None:
    with quiet():
        client = client_of(f"sqlite:///{resumed.folder.parent}/mlflow.db")
        shown = sorted(mlflow_points(client, only_run(client)), key=lambda point: point.time)
    check_both_curves(shown, resumed)


def test_wandb_has_the_values_and_those_that_they_supersede(resumed: ResumedRun) -> None:
    rows = sorted(wandb_rows(resumed.folder), key=lambda row: row["telemetry/attempt"])
    check_both_curves(wandb_points(rows, wandb_config(resumed.folder)["telemetry/units"]), resumed)


def check_both_curves(shown: list[Point], resumed: ResumedRun) -> None:
    """Check the last value at each iteration, and that there are superseded ones, from iteration 8 to 9."""
    assert_agree(as_points(shown), resumed.expected)
    names = [(point.name, point.step) for point in shown]
    assert {step for name, step in names if names.count((name, step)) > 1} == {8, 9}
