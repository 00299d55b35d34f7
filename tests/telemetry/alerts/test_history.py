"""MetricHistory: the recent values of a metric, their scatter, and the restart at a new level."""

import math

import numpy as np
import pytest

from telemetry.alerts.history import MetricHistory
from telemetry.alerts.settings import AlertSettings

HISTORY = 20


@pytest.fixture
def history() -> MetricHistory:
    return MetricHistory(AlertSettings(history=HISTORY, factor=5))


@pytest.mark.parametrize("trend", [1.0, 0.97])
@pytest.mark.parametrize("logarithmic", [True, False])
def test_the_scatter_is_that_of_the_noise_whatever_the_trend(
    history: MetricHistory, trend: float, logarithmic: bool
) -> None:
    noise = np.random.default_rng(1).normal(scale=0.1, size=2000)
    scatters = []
    for n in range(2000):
        history.add(trend**n * math.exp(noise[n]) if logarithmic else -3 + 2 * (trend - 1) * n / 1000 + 3 * noise[n])
        scatters.append(history.scatter)
    assert np.mean(scatters[50:]) == pytest.approx(0.1, rel=0.15)


def test_the_usual_value_is_the_median_of_the_last_15(history: MetricHistory) -> None:
    values = np.exp(np.random.default_rng(2).normal(scale=0.1, size=40))
    for n, value in enumerate(values):
        history.add(float(value))
        if n > 10:
            assert history.baseline == pytest.approx(np.exp(np.median(np.log(values[max(0, n - 15) : n]))))


def test_the_first_ten_values_are_compared_with_the_lowest_one(history: MetricHistory) -> None:
    for value in (5.0, 4.0, 4.5, 6.0):
        history.add(value)
    assert history.baseline == pytest.approx(4.0)


def test_a_history_with_values_that_are_not_positive_becomes_linear(history: MetricHistory) -> None:
    for value in (2.0, 1.0, 0.5, -0.5, *[-1.0, -1.1] * 10):
        history.add(value)
    assert history.baseline == pytest.approx(-1.0)
    assert history.outliers == 0
    history.add(10.0)
    assert history.outliers == 1


def test_a_level_that_lasts_and_is_healthy_becomes_the_new_normal(history: MetricHistory) -> None:
    for _ in range(HISTORY):
        history.add(1.0)
    for number in range(1, HISTORY):
        history.add(2.5)
        assert (history.outliers, history.baseline) == (number, pytest.approx(1.0))
    history.add(2.5)
    assert history.outliers == 0
    history.add(2.6)
    assert history.baseline == pytest.approx(2.5)


def test_a_level_that_lasts_and_is_not_healthy_does_not_become_the_new_normal(history: MetricHistory) -> None:
    for value in [1.0] * HISTORY + [4.0] * 2 * HISTORY:
        history.add(value)
    assert (history.outliers, history.baseline) == (2 * HISTORY, pytest.approx(1.0))


def test_the_first_value_is_compared_with_nothing(history: MetricHistory) -> None:
    history.add(5.0)
    assert history.outliers == 0
    assert math.isnan(history.baseline)
