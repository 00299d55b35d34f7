"""Points that raise an alert, and points that do not."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

import pytest

from telemetry.alerts.detector import DIVERGED_POINTS, AnomalyDetector, Divergence
from telemetry.alerts.missing_values import MIN_PRESENT
from telemetry.alerts.settings import AlertSettings
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


class Observed:
    """A detector that observes points of a window, ten seconds apart."""

    def __init__(self, **settings: float) -> None:
        self.clock = Clock()
        self.detector = AnomalyDetector(METRICS, AlertSettings(**settings), clock=self.clock)
        self.alerts: list[Alert] = []
        self.step = 0

    def point(self, values: Mapping[str, float], stream: str = "window", *, partial: bool = False) -> list[Alert]:
        self.step += 200
        self.clock.now += 10.0
        record = Scalars(seq=1, time=1, stream=stream, step=self.step, values=dict(values))
        alerts = self.detector.observe(record, partial=partial)
        self.alerts += alerts
        return alerts

    def points(self, losses: Iterable[float], **more: float) -> list[Alert]:
        return [alert for loss in losses for alert in self.point({"loss": loss} | more)]


def steady(number: int, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(1.0, 0.05) for _ in range(number)]


def causes(alerts: Iterable[Alert]) -> list[tuple[str | None, bool]]:
    return [(alert.cause, alert.recovered) for alert in alerts]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_value_raises_an_alert_at_once_and_another_when_it_is_over(value: float) -> None:
    observed = Observed()
    observed.points(steady(3))
    (alert,) = observed.point({"loss": value, "E_rmse": value})
    assert (alert.cause, alert.metric, alert.step, alert.since) == ("non-finite", "window/loss", 800, 800)
    assert alert.level == "error"
    assert float(alert.value or 0) == value or math.isnan(value)
    assert alert.text.startswith("also window/E_rmse. If it lasts, check the latest data")
    assert observed.points([value, value], E_rmse=value) == []
    assert observed.detector.active == ("non-finite",)
    (over,) = observed.point({"loss": 1.0, "E_rmse": 1.0})
    assert (over.cause, over.recovered, over.step, over.since) == ("non-finite", True, 1400, 800)
    assert observed.detector.active == ()


def test_metrics_of_every_stream_are_checked_for_non_finite_values() -> None:
    (alert,) = Observed().point({"loss": math.nan}, "batch")
    assert alert.metric == "batch/loss"


def test_a_healthy_stream_does_not_end_the_problem_of_another() -> None:
    observed = Observed()
    observed.point({"loss": math.nan}, "batch")
    assert observed.points(steady(3)) == []
    assert observed.detector.active == ("non-finite",)


def test_a_spike_is_reported_at_its_first_point_with_the_usual_value() -> None:
    observed = Observed()
    assert observed.points(steady(20)) == []
    (alert,) = observed.point({"loss": 12.0})
    assert (alert.cause, alert.metric, alert.value) == ("spike", "window/loss", 12.0)
    assert alert.baseline == pytest.approx(1.0, abs=0.05)
    assert alert.title.startswith("spike: window/loss is 12, usually ")
    assert observed.point({"loss": 9.0}) == []
    (over,) = observed.point({"loss": 1.0})
    assert over.recovered


def test_titles_contain_values_with_their_display_units() -> None:
    observed = Observed()
    for value in steady(20):
        observed.point({"E_rmse": 10 * value})
    (alert,) = observed.point({"E_rmse": 1234.5678})
    assert "window/E_rmse is 1235 kcal/mol, usually " in alert.title


def test_metrics_that_spike_together_raise_one_alert_until_the_last_has_recovered() -> None:
    observed = Observed()
    observed.points(steady(20), E_rmse=5.0)
    (alert,) = observed.point({"loss": 50.0, "E_rmse": 500.0})
    assert alert.metric == "window/loss"
    assert alert.text.startswith("also window/E_rmse. A single spike usually does no harm.")
    assert observed.point({"loss": 1.0, "E_rmse": 500.0}) == []
    assert causes(observed.point({"loss": 1.0, "E_rmse": 5.0})) == [("spike", True)]


def test_a_spike_becomes_the_new_normal_after_as_many_points_as_the_history_has() -> None:
    observed = Observed(history=20, factor=5)
    observed.points(steady(20))
    assert causes(observed.points([2.5] * 19)) == [("spike", False)]
    assert causes(observed.points([2.5] * 100)) == [("spike", True)]


def test_a_level_far_above_the_lowest_one_never_becomes_the_new_normal() -> None:
    observed = Observed()
    observed.points(steady(50))
    last_healthy = observed.step
    assert causes(observed.points([20.0] * 500)) == [("spike", False), ("diverging", False)]
    assert observed.detector.last_healthy_step == last_healthy
    assert observed.detector.diverged is not None
    assert causes(observed.points(steady(50))) == [("spike", True), ("diverging", True)]
    assert observed.detector.diverged is None
    assert observed.detector.last_healthy_step == observed.step


def test_an_error_of_a_higher_level_stays_a_spike_but_does_not_diverge() -> None:
    observed = Observed()
    observed.points(steady(50), E_rmse=1.0)
    assert causes(observed.points(steady(300), E_rmse=20.0)) == [("spike", False)]
    assert observed.detector.last_healthy_step == observed.step


def test_a_metric_that_is_better_when_higher_may_rise_and_must_be_finite() -> None:
    metrics = {"val/accuracy": Metric(better="higher", watch=True), "val/E_r2": Metric(watch=True)}
    for name in metrics:
        detector = AnomalyDetector(metrics, AlertSettings(), clock=Clock())
        values = [0.01] * 60 + [0.99] * 60 + [math.nan]
        alerts = []
        for step, value in enumerate(values):
            point = Scalars(seq=1, time=1, stream="val", step=step, values={name.removeprefix("val/"): value})
            alerts += detector.observe(point)
        assert causes(alerts) == [("non-finite", False)]
        assert detector.diverged == Divergence(f"{name} is NaN", after=119)


def test_with_patience_a_single_point_is_no_spike() -> None:
    observed = Observed(patience=2)
    observed.points(steady(20))
    assert observed.points([30.0, 1.0, 30.0, 1.0]) == []
    assert causes(observed.points([30.0, 30.0])) == [("spike", False)]


def test_the_factor_sets_how_far_above_the_median_a_spike_is() -> None:
    mild, strict = Observed(factor=50.0), Observed(factor=3.0)
    for observed in (mild, strict):
        observed.points(steady(30))
        observed.point({"loss": 1.6})
    assert mild.alerts == []
    assert causes(strict.alerts) == [("spike", False)]


def test_a_far_too_large_learning_rate_is_reported_at_the_second_point_if_it_is_evident() -> None:
    assert causes(Observed().points([2.0, 400.0])) == [("spike", False)]


def test_a_few_points_are_too_little_history_for_a_single_spike() -> None:
    observed = Observed()
    assert observed.points([1.1, 2.6, 1.0, 9.0, 0.9]) == []
    assert observed.points([9.0, 9.0]) == []
    assert causes(observed.points([9.0])) == [("spike", False)], "three in a row are enough"


def test_a_spike_ends_once_the_value_is_close_to_the_usual_one() -> None:
    observed = Observed()
    observed.points(steady(30))
    assert causes(observed.points([4.0, 2.5, 4.0, 2.5])) == [("spike", False)]
    assert causes(observed.points([1.5])) == [("spike", True)]


def test_a_spike_is_found_while_the_loss_falls_fast() -> None:
    observed = Observed()
    assert observed.points(100 * 0.9**n for n in range(40)) == []
    assert causes(observed.point({"loss": 20.0})) == [("spike", False)]


@pytest.mark.parametrize("value", [0.0, -1.0, 5e-324, 1.7e308])
def test_values_of_any_magnitude_are_handled(value: float) -> None:
    for values in ([value] * 30, [value, *steady(30), value], [*steady(30), value]):
        observed = Observed()
        observed.points(values, E_rmse=value)
        assert observed.detector.last_healthy_step > 0


@pytest.mark.parametrize("seed", range(20))
def test_a_noisy_curve_that_falls_and_flattens_raises_no_alert(seed: int) -> None:
    chance = random.Random(seed)
    observed = Observed()
    for n in range(400):
        noise = math.exp(chance.gauss(0, 0.15))
        values = {"loss": (3.0 / (1 + n / 5) + 0.2) * noise, "E_rmse": (40 / (1 + n / 20) + 5) * noise, "s_rmse": 0.1}
        observed.point(values)
    assert observed.alerts == []


def test_a_metric_that_was_always_zero_may_take_any_value() -> None:
    observed = Observed()
    observed.points([0.0] * 20)
    assert observed.points([1e-9, 1e-3]) == []


def test_a_metric_that_always_had_values_is_missing_after_a_few_points() -> None:
    observed = Observed()
    observed.points(steady(MIN_PRESENT), E_rmse=1.0)
    assert observed.points([1.0] * 3) == []
    (alert,) = observed.points([1.0])
    assert (alert.cause, alert.metric) == ("unlabelled", "window/E_rmse")
    assert (
        alert.title == "no labels: window/E_rmse has had no value for 4 points; it had values in 5 of 5 points before"
    )
    assert observed.points([1.0]) == []
    assert causes(observed.points([1.0], E_rmse=1.0)) == [("unlabelled", True)]


def test_a_metric_that_had_values_in_hundreds_of_points_is_missing_at_the_second_point_without() -> None:
    observed = Observed()
    observed.points(steady(200), E_rmse=1.0)
    assert observed.points([1.0]) == []
    assert causes(observed.points([1.0])) == [("unlabelled", False)]


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.95, 0.99])
def test_a_fidelity_in_some_of_the_points_may_be_missing(rate: float) -> None:
    chance = random.Random(round(100 * rate))
    observed = Observed()
    for _ in range(1000):
        observed.point({"loss": 1.0} | ({"E_rmse": 1.0} if chance.random() < rate else {}))
    assert observed.alerts == []
    assert causes(observed.points([1.0] * 50)) == [("unlabelled", False)]


def test_only_the_first_gap_of_a_fidelity_that_alternates_with_another_is_reported() -> None:
    observed = Observed()
    for n in range(1000):
        observed.point({"loss": 1.0} | ({"E_rmse": 1.0} if n // 20 % 2 == 0 else {}))
    assert causes(observed.alerts) == [("unlabelled", False), ("unlabelled", True)]


def test_a_problem_that_comes_and_goes_is_reported_ever_less_often() -> None:
    observed = Observed(history=50)
    observed.points(steady(50))
    for _ in range(100):
        observed.points([30.0, *steady(9)])
    assert causes(observed.alerts) == [("spike", False), ("spike", True)] * 5


def test_a_problem_that_lasts_is_reported_even_shortly_after_another() -> None:
    observed = Observed()
    observed.points([*steady(50), 30.0, *steady(9)])
    observed.alerts.clear()
    assert observed.points([30.0] * 4) == []
    assert causes(observed.points([30.0])) == [("spike", False)]


def test_nan_values_of_one_point_per_epoch_are_reported_ever_less_often() -> None:
    observed = Observed()
    for _ in range(100):
        observed.points([math.nan, *steady(9)])
    assert [alert.step // 200 for alert in observed.alerts if not alert.recovered] == [
        1,
        11,
        31,
        61,
        111,
        201,
        371,
        701,
    ]


def test_streams_with_a_common_prefix_are_not_confused() -> None:
    metrics = {"val/loss": Metric(watch=True), "val/fid0/loss": Metric(watch=True)}
    detector = AnomalyDetector(metrics, AlertSettings(), clock=Clock())
    for step in range(1, 40):
        for stream in ("val", "val/fid0"):
            assert detector.observe(Scalars(seq=1, time=1, stream=stream, step=step, values={"loss": 1.0})) == []


def test_a_partial_last_point_may_lack_a_label() -> None:
    observed = Observed()
    observed.points(steady(MIN_PRESENT), E_rmse=1.0)
    assert observed.point({"loss": 1.0}, partial=True) == []


def test_a_metric_missing_from_another_stream_is_no_problem() -> None:
    observed = Observed()
    observed.points(steady(MIN_PRESENT), E_rmse=1.0)
    assert observed.point({"loss": 1.0}, "batch") == []


def test_an_error_that_rises_while_the_loss_falls_raises_an_alert() -> None:
    observed = Observed()
    for n in range(100):
        observed.point({"loss": 2.0 * 0.98**n, "s_rmse": 0.1 * 1.03**n, "E_rmse": 5.0})
    (alert,) = observed.alerts
    assert (alert.cause, alert.metric) == ("apart", "window/s_rmse")
    assert alert.title == (
        "worse: window/s_rmse is about 0.2692 e; it was already down to 0.1324 e while window/loss has not risen"
    )
    for _ in range(20):
        observed.point({"loss": 0.2, "s_rmse": 0.1, "E_rmse": 5.0})
    assert causes(observed.alerts[1:]) == [("apart", True)]


def test_the_error_of_a_fidelity_is_compared_with_its_loss_and_the_total_one() -> None:
    names = ("window/loss", "window/gfn1/loss", "window/gfn1/E_rmse", "window/spgfn2/loss")
    for falling, reported in (("loss", True), ("gfn1/loss", True), ("spgfn2/loss", False)):
        detector = AnomalyDetector({name: Metric(watch=True) for name in names}, AlertSettings())
        alerts: list[Alert] = []
        for n in range(100):
            values = dict.fromkeys(("loss", "gfn1/loss", "spgfn2/loss"), 1.01**n) | {falling: 2.0 * 0.98**n}
            values["gfn1/E_rmse"] = 0.1 * 1.03**n
            alerts += detector.observe(Scalars(seq=1, time=1, stream="window", step=n, values=values))
        assert [alert.metric for alert in alerts] == ["window/gfn1/E_rmse"] * reported


def test_an_error_that_rises_with_the_loss_has_not_risen_alone() -> None:
    observed = Observed()
    for n in range(80):
        observed.point({"loss": 1.015**n, "s_rmse": 0.1 * 1.015**n})
    assert observed.alerts == []


def restart(rate: float, rise: float) -> list[Alert]:
    """Return the alerts after a restart of the learning rate to ``rate`` times the previous one."""
    metrics = METRICS | {"train/lr": Metric()}
    detector = AnomalyDetector(metrics, AlertSettings(), clock=Clock())
    alerts = []
    for n, loss in enumerate([*steady(40), *(rise * loss for loss in steady(10))]):
        for stream, values in ("train", {"lr": rate if n >= 40 else 1.0}), ("window", {"loss": loss}):
            alerts += detector.observe(Scalars(seq=1, time=1, stream=stream, step=n, values=values))
    return alerts


def test_a_restart_of_the_learning_rate_may_raise_the_loss_several_times() -> None:
    assert restart(100.0, rise=5.0) == []
    assert causes(restart(1.0, rise=5.0)) == [("spike", False)]
    assert causes(restart(100.0, rise=40.0))[0] == ("spike", False)


@pytest.mark.parametrize("noise", [0.1, 0.15, 0.3])
def test_independent_noise_of_loss_and_errors_is_no_rise(noise: float) -> None:
    chance = random.Random(1)
    observed = Observed()
    for _ in range(1500):
        observed.point({name: math.exp(chance.gauss(0, noise)) for name in ("loss", "E_rmse", "s_rmse")})
    assert observed.alerts == []


def test_a_long_silence_raises_an_alert_and_the_next_point_ends_it() -> None:
    observed = Observed(stalled=60.0)
    observed.points(steady(5))
    observed.clock.now += 199.0
    assert observed.detector.check_silence() == []
    observed.clock.now += 2.0
    (alert,) = observed.detector.check_silence()
    assert alert.cause == "stalled"
    assert alert.title == "no new point for 201 s; the longest recent interval was 10.0 s"
    assert observed.detector.check_silence() == []
    assert causes(observed.points([1.0])) == [("stalled", True)]
    # An interval that resolved by itself, such as a validation, is normal from then on.
    observed.clock.now += 1000.0
    assert observed.detector.check_silence() == []


def test_fast_training_has_not_stalled_before_the_configured_time() -> None:
    observed = Observed(stalled=1000.0)
    observed.points(steady(5))
    observed.clock.now += 999.0
    assert observed.detector.check_silence() == []


def test_a_run_without_a_second_point_has_not_stalled() -> None:
    observed = Observed(stalled=1.0)
    assert observed.detector.check_silence() == []
    observed.points([1.0])
    observed.clock.now += 1e6
    assert observed.detector.check_silence() == []


def test_a_run_has_diverged_while_a_watched_metric_is_not_finite() -> None:
    observed = Observed()
    observed.points(steady(2))
    observed.point({"loss": math.nan}, "batch")
    assert observed.detector.diverged is None
    observed.point({"loss": math.nan})
    assert observed.detector.diverged == Divergence("window/loss is NaN", after=400)
    observed.point({"loss": 1.0})
    assert observed.detector.diverged is None


def test_the_step_that_training_resumes_from_counts_as_healthy() -> None:
    detector = AnomalyDetector(METRICS, AlertSettings(), start=5000, clock=Clock())
    detector.observe(Scalars(seq=1, time=1, stream="window", step=5200, values={"loss": math.nan}))
    assert detector.diverged == Divergence("window/loss is NaN", after=5000)


def replayed(losses: Iterable[float], *, start: int) -> AnomalyDetector:
    detector = AnomalyDetector(METRICS, AlertSettings(), start=start, clock=Clock())
    detector.replay(
        Scalars(seq=1, time=1, stream="window", step=step, values={"loss": loss, "E_rmse": 1.0})
        for step, loss in enumerate(losses, 1)
    )
    return detector


def test_an_attempt_that_continues_a_healthy_run_starts_healthy() -> None:
    assert replayed([], start=100).last_healthy_step == 100
    assert replayed(steady(99), start=100).last_healthy_step == 100


@pytest.mark.parametrize("bad", [[20.0] * 5, [20.0] * 500, [1.02**n for n in range(150)], [math.nan]])
def test_an_attempt_that_continues_a_diverged_run_is_not_healthy(bad: list[float]) -> None:
    detector = replayed([*steady(100), *bad], start=100 + len(bad))
    last_healthy = detector.last_healthy_step
    assert 100 <= last_healthy < 100 + 90
    detector.observe(Scalars(seq=1, time=1, stream="window", step=1000, values={"loss": bad[-1]}))
    assert detector.last_healthy_step == last_healthy


def test_an_attempt_that_continues_a_diverged_run_reports_it_again() -> None:
    detector = replayed([*steady(100), *[20.0] * 100], start=200)
    point = Scalars(seq=1, time=1, stream="window", step=201, values={"loss": 20.0})
    assert causes(detector.observe(point)) == [("spike", False), ("diverging", False)]


def test_metrics_that_are_not_watched_do_not_affect_the_last_healthy_step() -> None:
    observed = Observed()
    observed.point({"loss": math.nan}, "batch")
    observed.points(steady(5))
    assert observed.detector.last_healthy_step == observed.step
    observed.point({"loss": 1.0}, "batch")
    assert observed.detector.last_healthy_step == observed.step - 200, "a batch does not prove its window healthy"


def test_a_spike_is_not_healthy_even_before_patience_runs_out() -> None:
    observed = Observed(patience=20)
    observed.points(steady(20))
    last_healthy = observed.step
    observed.points([70.0] * DIVERGED_POINTS)
    assert observed.detector.diverged is not None
    assert observed.detector.diverged.after == last_healthy


@pytest.mark.parametrize("losses", [[2.0] * 40, [3.0, 2.5, 2.0, 1.8, 1.6, 1.4, 1.2] * 5])
def test_a_loss_a_few_times_its_usual_value_has_not_diverged(losses: list[float]) -> None:
    observed = Observed()
    observed.points(steady(50))
    for loss in losses:
        observed.point({"loss": loss})
        assert observed.detector.diverged is None


def test_a_loss_that_stays_in_a_spike_has_diverged_and_another_metric_has_not() -> None:
    observed = Observed()
    observed.points(steady(20), E_rmse=1.0)
    observed.points([1.0] * DIVERGED_POINTS, E_rmse=100.0)
    last_healthy = observed.step
    observed.points([70.0] * (DIVERGED_POINTS - 1), E_rmse=1.0)
    assert observed.detector.diverged is None
    observed.points([70.0], E_rmse=1.0)
    assert observed.detector.diverged is not None
    assert observed.detector.diverged.reason.startswith("window/loss stays far above its usual value ")
    assert observed.detector.diverged.after == last_healthy


def test_a_much_higher_spike_is_reported_soon_after_another() -> None:
    observed = Observed()
    observed.points([*steady(30), 20.0, *steady(3, seed=1)])
    assert causes(observed.alerts) == [("spike", False), ("spike", True)]
    assert observed.points([60.0, *steady(3, seed=2)]) == []
    assert causes(observed.points([5000.0, *steady(3, seed=3)])) == [("spike", False), ("spike", True)]
    assert observed.points([20_000.0, *steady(3, seed=4)]) == []
