"""MetricHistory: the recent values of a metric, their trend, and the restart at a new level."""

import math

import pytest

from telemetry.alerts.history import MetricHistory
from telemetry.alerts.settings import AlertSettings

HISTORY = 20


@pytest.fixture
def history() -> MetricHistory:
    return MetricHistory(AlertSettings(history=HISTORY), is_loss=False)


def test_the_trend_compares_the_medians_of_the_last_ten_values_and_the_ten_before(history: MetricHistory) -> None:
    for value in range(101, 120):
        history.add(value)
        assert history.trend() == 1.0
    history.add(120)
    assert history.trend() == 115.5 / 105.5
    history.add(121)
    assert history.trend() == 116.5 / 106.5


def test_a_level_that_lasts_and_is_healthy_becomes_the_new_normal(history: MetricHistory) -> None:
    for _ in range(HISTORY):
        history.add(1.0)
    for number in range(1, HISTORY):
        history.add(2.5)
        assert (history.outliers, history.baseline) == (number, 1.0)
    history.add(2.5)
    assert history.outliers == 0
    history.add(2.6)
    assert history.baseline == 2.5


def test_a_level_that_lasts_and_is_not_healthy_does_not_become_the_new_normal(history: MetricHistory) -> None:
    for value in [1.0] * HISTORY + [4.0] * 2 * HISTORY:
        history.add(value)
    assert (history.outliers, history.baseline) == (2 * HISTORY, 1.0)


def test_the_first_value_is_compared_with_nothing(history: MetricHistory) -> None:
    history.add(5.0)
    assert history.outliers == 0
    assert math.isnan(history.baseline)
