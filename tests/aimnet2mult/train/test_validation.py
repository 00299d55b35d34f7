"""The best validation is the one with the lowest value so far, or the highest R²."""

import math

import pytest

from aimnet2mult.errors import ConfigError
from aimnet2mult.train.validation import Best

METRICS = ("loss", "E_rmse", "E_r2")


@pytest.mark.parametrize("name", ["E_rmse", "val_E_rmse", "val/E_rmse"])
def test_a_validation_is_the_best_if_its_value_is_lower_than_all_before(name: str) -> None:
    best = Best(name, METRICS)
    values = [3.0, 3.0, 2.0, math.nan, 2.5, 1.0]
    assert [best.improved({"E_rmse": value, "loss": 0.0}) for value in values] == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]


def test_an_r2_is_best_at_its_highest() -> None:
    best = Best("E_r2", METRICS)
    assert [best.improved({"E_r2": value}) for value in (-2.0, 0.5, 0.4, 0.6)] == [True, True, False, True]


def test_a_validation_without_the_metric_is_not_the_best() -> None:
    assert not Best("E_rmse", METRICS).improved({"loss": 1.0})
    assert not Best(None, METRICS).improved({"loss": 1.0})


def test_the_best_outlives_a_resume_unless_another_metric_is_asked_for() -> None:
    before = Best("loss", METRICS)
    assert before.improved({"loss": 1.0})
    for name, improved in (("loss", False), ("E_rmse", True)):
        after = Best(name, METRICS)
        after.load_state_dict(before.state_dict())
        assert after.improved({"loss": 2.0, "E_rmse": 2.0}) == improved
    after = Best("loss", METRICS)
    after.load_state_dict({})
    assert after.improved({"loss": 2.0})


def test_a_metric_that_the_validation_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.best is 'F_rmse'; the validation has loss, E_rmse, E_r2"):
        Best("F_rmse", METRICS)
