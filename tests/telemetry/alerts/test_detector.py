"""What the watch tells of, once, and what it does not mind."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

import pytest

from telemetry.alerts.detector import LASTING, STEADY, AlertSettings, AnomalyDetector, Divergence
from telemetry.metrics import Metric
from telemetry.records import Alert, Scalars

METRICS = {
    "window/loss": Metric(watch=True),
    "window/E_rmse": Metric(unit="kcal/mol", watch=True),
    "window/s_rmse": Metric(unit="e", watch=True),
    "batch/loss": Metric(),
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Seen:
    """A watch that is given points of a window, one after another, ten seconds apart."""

    def __init__(self, **settings: float) -> None:
        self.clock = Clock()
        self.watch = AnomalyDetector(METRICS, AlertSettings(**settings), clock=self.clock)
        self.alerts: list[Alert] = []
        self.step = 0

    def point(self, values: Mapping[str, float], stream: str = "window", *, partial: bool = False) -> list[Alert]:
        self.step += 200
        self.clock.now += 10.0
        record = Scalars(seq=1, time=1, stream=stream, step=self.step, values=dict(values))
        told = self.watch.observe(record, partial=partial)
        self.alerts += told
        return told

    def points(self, losses: Iterable[float], **more: float) -> list[Alert]:
        return [alert for loss in losses for alert in self.point({"loss": loss} | more)]


def steady(number: int, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(1.0, 0.05) for _ in range(number)]


def causes(alerts: Iterable[Alert]) -> list[tuple[str | None, bool]]:
    return [(alert.cause, alert.recovered) for alert in alerts]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_told_at_once_and_its_end_too(value: float) -> None:
    seen = Seen()
    seen.points(steady(3))
    (alert,) = seen.point({"loss": value, "E_rmse": value})
    assert (alert.cause, alert.metric, alert.step, alert.since) == ("non-finite", "window/loss", 800, 800)
    assert alert.level == "error"
    assert float(alert.value or 0) == value or math.isnan(value)
    assert alert.text == "likewise window/E_rmse"
    assert seen.points([value, value], E_rmse=value) == []
    assert seen.watch.active == ("non-finite",)
    (over,) = seen.point({"loss": 1.0, "E_rmse": 1.0})
    assert (over.cause, over.recovered, over.step, over.since) == ("non-finite", True, 1400, 800)
    assert seen.watch.active == ()


def test_a_metric_of_any_stream_is_looked_at_for_values_that_are_not_finite() -> None:
    (alert,) = Seen().point({"loss": math.nan}, "batch")
    assert alert.metric == "batch/loss"


def test_what_one_stream_says_does_not_end_the_trouble_of_another() -> None:
    seen = Seen()
    seen.point({"loss": math.nan}, "batch")
    assert seen.points(steady(3)) == []
    assert seen.watch.active == ("non-finite",)


def test_a_spike_is_told_at_its_first_point_with_what_is_usual() -> None:
    seen = Seen()
    assert seen.points(steady(20)) == []
    (alert,) = seen.point({"loss": 12.0})
    assert (alert.cause, alert.metric, alert.value) == ("spike", "window/loss", 12.0)
    assert alert.baseline == pytest.approx(1.0, abs=0.05)
    assert alert.title.startswith("spike: window/loss is 12, its usual is ")
    assert seen.point({"loss": 9.0}) == []
    (over,) = seen.point({"loss": 1.0})
    assert over.recovered


def test_values_and_units_are_those_that_are_shown() -> None:
    seen = Seen()
    for value in steady(20):
        seen.point({"E_rmse": 10 * value})
    (alert,) = seen.point({"E_rmse": 1234.5678})
    assert "window/E_rmse is 1235 kcal/mol, its usual is " in alert.title


def test_metrics_that_spike_together_are_one_alert_until_the_last_is_well() -> None:
    seen = Seen()
    seen.points(steady(20), E_rmse=5.0)
    (alert,) = seen.point({"loss": 50.0, "E_rmse": 500.0})
    assert (alert.metric, alert.text) == ("window/loss", "likewise window/E_rmse")
    assert seen.point({"loss": 1.0, "E_rmse": 500.0}) == []
    assert causes(seen.point({"loss": 1.0, "E_rmse": 5.0})) == [("spike", True)]


def test_a_spike_becomes_usual_when_it_has_lasted_for_as_long_as_what_it_was_held_against() -> None:
    seen = Seen(history=20)
    seen.points(steady(20))
    assert causes(seen.points([30.0] * 19)) == [("spike", False)]
    assert causes(seen.points([30.0] * 100)) == [("spike", True)]


def test_with_patience_one_point_is_no_spike() -> None:
    seen = Seen(patience=2)
    seen.points(steady(20))
    assert seen.points([30.0, 1.0, 30.0, 1.0]) == []
    assert causes(seen.points([30.0, 30.0])) == [("spike", False)]


def test_a_factor_says_how_far_above_is_a_spike() -> None:
    mild, strict = Seen(factor=50.0), Seen(factor=3.0)
    for seen in (mild, strict):
        seen.points(steady(30))
        seen.point({"loss": 1.6})
    assert mild.alerts == []
    assert causes(strict.alerts) == [("spike", False)]


def test_a_learning_rate_that_is_far_too_large_shows_in_the_second_point() -> None:
    seen = Seen()
    assert causes(seen.points([2.0, 400.0])) == [("spike", False)]
    assert causes(Seen().points([4e11, 1.1e12])) == [("spike", False)]


@pytest.mark.parametrize("seed", range(20))
def test_a_course_that_falls_and_flattens_with_noise_is_no_trouble(seed: int) -> None:
    chance = random.Random(seed)
    seen = Seen()
    for n in range(400):
        noise = math.exp(chance.gauss(0, 0.15))
        values = {"loss": (3.0 / (1 + n / 5) + 0.2) * noise, "E_rmse": (40 / (1 + n / 20) + 5) * noise, "s_rmse": 0.1}
        seen.point(values)
    assert seen.alerts == []


def test_what_was_zero_throughout_may_become_something() -> None:
    seen = Seen()
    seen.points([0.0] * 20)
    assert seen.points([1e-9, 1e-3]) == []


def test_a_metric_that_had_values_and_has_none_is_told_of_and_one_that_never_had_is_not() -> None:
    seen = Seen()
    seen.points(steady(STEADY), E_rmse=1.0)
    (alert,) = seen.points([1.0])
    assert (alert.cause, alert.metric) == ("unlabelled", "window/E_rmse")
    assert seen.points([1.0]) == []
    assert causes(seen.points([1.0], E_rmse=1.0)) == [("unlabelled", True)]


def test_a_metric_that_comes_and_goes_is_no_flood() -> None:
    seen = Seen()
    for n in range(400):
        seen.point({"loss": 1.0} | ({"E_rmse": 1.0} if n % 2 or n < 10 else {}))
    assert causes(seen.alerts) == [("unlabelled", False), ("unlabelled", True)]


def test_what_comes_and_goes_is_told_of_once_in_as_many_points_as_the_history_is() -> None:
    seen = Seen(history=50)
    seen.points(steady(50))
    for _ in range(20):
        seen.points([30.0, *steady(9)])
    assert causes(seen.alerts) == [("spike", False), ("spike", True)] * 4


def test_a_stream_whose_name_begins_as_anothers_is_another() -> None:
    metrics = {"val/loss": Metric(watch=True), "val/fid0/loss": Metric(watch=True)}
    watch = AnomalyDetector(metrics, AlertSettings(), clock=Clock())
    for step in range(1, 40):
        for stream in ("val", "val/fid0"):
            assert watch.observe(Scalars(seq=1, time=1, stream=stream, step=step, values={"loss": 1.0})) == []


def test_a_last_point_that_stands_for_a_few_batches_may_lack_a_label() -> None:
    seen = Seen()
    seen.points(steady(STEADY), E_rmse=1.0)
    assert seen.point({"loss": 1.0}, partial=True) == []


def test_another_stream_without_a_metric_is_no_missing_label() -> None:
    seen = Seen()
    seen.points(steady(STEADY), E_rmse=1.0)
    assert seen.point({"loss": 1.0}, "batch") == []


def test_an_error_that_rises_while_the_loss_falls_is_told() -> None:
    seen = Seen()
    for n in range(40):
        seen.point({"loss": 2.0 * 0.98**n, "s_rmse": 0.1 * 1.03**n, "E_rmse": 5.0})
    (alert,) = seen.alerts
    assert (alert.cause, alert.metric) == ("apart", "window/s_rmse")
    assert alert.title == "loss and error part ways: window/loss falls, window/s_rmse does the opposite"


def test_no_point_for_long_is_told_and_so_is_the_next_one() -> None:
    seen = Seen(stalled=60.0)
    seen.points(steady(5))
    seen.clock.now += 199.0
    assert seen.watch.check_silence() == []
    seen.clock.now += 2.0
    (alert,) = seen.watch.check_silence()
    assert alert.cause == "stalled"
    assert alert.title == "no new point for 201 s, after at least one in 10.0 s"
    assert seen.watch.check_silence() == []
    assert causes(seen.points([1.0])) == [("stalled", True)]
    # What has gone well once is no reason to say it again: a validation takes that long.
    seen.clock.now += 1000.0
    assert seen.watch.check_silence() == []


def test_what_is_quick_is_not_said_to_stand_still_before_the_time_that_was_set() -> None:
    seen = Seen(stalled=1000.0)
    seen.points(steady(5))
    seen.clock.now += 999.0
    assert seen.watch.check_silence() == []


def test_a_run_without_a_second_point_is_not_said_to_stand_still() -> None:
    seen = Seen(stalled=1.0)
    assert seen.watch.check_silence() == []
    seen.points([1.0])
    seen.clock.now += 1e6
    assert seen.watch.check_silence() == []


def test_diverged_is_what_is_not_finite_of_the_watched_metrics() -> None:
    seen = Seen()
    seen.points(steady(2))
    seen.point({"loss": math.nan}, "batch")
    assert seen.watch.diverged is None
    seen.point({"loss": math.nan})
    assert seen.watch.diverged == Divergence("window/loss is NaN", after=400)
    seen.point({"loss": 1.0})
    assert seen.watch.diverged is None


def test_what_was_well_when_training_went_on_counts_as_well() -> None:
    watch = AnomalyDetector(METRICS, AlertSettings(), start=5000, clock=Clock())
    watch.observe(Scalars(seq=1, time=1, stream="window", step=5200, values={"loss": math.nan}))
    assert watch.diverged == Divergence("window/loss is NaN", after=5000)


def test_a_metric_that_is_not_watched_has_no_say_in_what_is_well() -> None:
    seen = Seen()
    seen.point({"loss": math.nan}, "batch")
    seen.points(steady(5))
    assert seen.watch.last_healthy_step == seen.step
    seen.point({"loss": 1.0}, "batch")
    assert seen.watch.last_healthy_step == seen.step - 200, "a batch says nothing of the window that it is in"


def test_however_patient_the_watch_is_a_spike_is_not_well() -> None:
    seen = Seen(patience=20)
    seen.points(steady(20))
    well = seen.step
    seen.points([70.0] * LASTING)
    assert seen.watch.diverged is not None
    assert seen.watch.diverged.after == well


@pytest.mark.parametrize("losses", [[2.0] * 40, [3.0, 2.5, 2.0, 1.8, 1.6, 1.4, 1.2] * 5])
def test_a_loss_that_is_a_few_times_its_usual_has_not_diverged(losses: list[float]) -> None:
    seen = Seen()
    seen.points(steady(50))
    for loss in losses:
        seen.point({"loss": loss})
        assert seen.watch.diverged is None


def test_diverged_is_a_loss_that_stays_in_a_spike_and_no_other_metric_that_does() -> None:
    seen = Seen()
    seen.points(steady(20), E_rmse=1.0)
    seen.points([1.0] * LASTING, E_rmse=100.0)
    well = seen.step
    seen.points([70.0] * (LASTING - 1), E_rmse=1.0)
    assert seen.watch.diverged is None
    seen.points([70.0], E_rmse=1.0)
    assert seen.watch.diverged is not None
    assert seen.watch.diverged.reason.startswith("window/loss stays far above its usual ")
    assert seen.watch.diverged.after == well
