"""Additions to the description of a run."""

from telemetry.metrics import Metric
from telemetry.records import SEQ_PER_SEGMENT, RunUpdate, updated
from telemetry.testing.points import run_record


def test_an_update_adds_metrics_after_the_declared_ones_and_replaces_parameters() -> None:
    run = run_record(metrics={"val/E": Metric(unit="eV")}, params={"seed": 7, "lr": 0.1})
    update = RunUpdate(seq=3, time=0, metrics={"train/loss": Metric(), "val/E": Metric(unit="")}, params={"lr": 0.2})
    found = updated(run, update)
    assert list(found.metrics.items()) == [("val/E", Metric(unit="eV")), ("train/loss", Metric())]
    assert found.params == {"seed": 7, "lr": 0.2}


def test_an_update_of_an_earlier_attempt_does_not_change_the_parameters_of_the_newest() -> None:
    run = run_record(seq=SEQ_PER_SEGMENT, metrics={}, params={"lr": 0.1})
    found = updated(run, RunUpdate(seq=3, time=0, metrics={"val/E": Metric()}, params={"lr": 0.2, "old": True}))
    assert (list(found.metrics), found.params) == (["val/E"], {"lr": 0.1})
