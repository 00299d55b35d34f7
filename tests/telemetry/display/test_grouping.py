"""Charts are grouped by the declarations of their metrics."""

from __future__ import annotations

from typing import Any

from support.written_runs import METRICS
from telemetry import Metric
from telemetry.display.grouping import Chart, charts, ordered


def test_streams_share_a_chart_and_parts_of_the_data_have_their_own_heading() -> None:
    assert charts(METRICS) == {
        "overall": [
            Chart("loss", ["train/loss", "val/loss"]),
            Chart("RMSE of energy [kcal/mol]", ["train/E_rmse", "val/E_rmse"]),
            Chart("learning rate", ["train/lr"]),
        ],
        "gfn1": [Chart("RMSE of energy, gfn1 [kcal/mol]", ["val/gfn1/E_rmse"])],
    }


def test_streams_with_different_labels_share_a_chart_titled_with_the_name() -> None:
    metrics = {"train/loss": Metric(label="loss of the batch"), "val/loss": Metric(label="loss of all data")}
    assert charts(metrics) == {"overall": [Chart("loss", ["train/loss", "val/loss"])]}


def test_a_metric_in_two_units_has_two_charts() -> None:
    metrics = {"train/E": Metric(unit="eV"), "val/E": Metric(unit="kcal/mol")}
    assert charts(metrics) == {"overall": [Chart("E [eV]", ["train/E"]), Chart("E [kcal/mol]", ["val/E"])]}


def _metric(**fields: Any) -> Metric:
    return Metric(label="", **fields)


class TestOrder:
    def test_main_metrics_come_first_and_metrics_without_direction_last(self) -> None:
        metrics = {
            "train/lr": _metric(),
            "train/loss": _metric(better="lower", main=True),
            "val/loss": _metric(better="lower", main=True),
            "val/E_mae": _metric(better="lower"),
            "val/gfn1/E_rmse": _metric(better="lower"),
        }
        assert list(charts(metrics)) == ["overall", "gfn1", "details", "progress"]
        assert {heading: [chart.title for chart in found] for heading, found in charts(metrics).items()} == {
            "overall": ["loss"],
            "gfn1": ["E_rmse"],
            "details": ["E_mae"],
            "progress": ["lr"],
        }

    def test_the_system_comes_last_and_shares_no_chart(self) -> None:
        metrics = {
            "system/memory": _metric(unit="GiB"),
            "system/gpu/0": _metric(unit="%"),
            "train/memory": _metric(unit="GiB"),
            "val/system/loss": _metric(),
        }
        assert charts(metrics) == {
            "overall": [Chart("memory [GiB]", ["train/memory"])],
            "system": [
                Chart("loss", ["val/system/loss"]),
                Chart("memory [GiB]", ["system/memory"]),
                Chart("gpu/0 [%]", ["system/gpu/0"]),
            ],
        }
        assert charts({"system/memory": _metric()}) == {"system": [Chart("memory", ["system/memory"])]}
        assert ordered(["system", "progress", "gfn1"]) == ["gfn1", "progress", "system"]

    def test_without_main_metrics_those_with_a_direction_come_first(self) -> None:
        metrics = {"train/lr": _metric(), "train/loss": _metric(watch=True), "val/accuracy": _metric(better="higher")}
        assert {heading: [chart.title for chart in found] for heading, found in charts(metrics).items()} == {
            "overall": ["loss", "accuracy"],
            "progress": ["lr"],
        }

    def test_errors_of_version_0_1_that_are_not_watched_are_details(self) -> None:
        metrics = {
            "val/loss": _metric(watch=True),
            "val/E_mae": _metric(),
            "val/E_r2": _metric(),
            "train/lr": _metric(),
        }
        assert {heading: [chart.title for chart in found] for heading, found in charts(metrics).items()} == {
            "overall": ["loss"],
            "details": ["E_mae", "E_r2"],
            "progress": ["lr"],
        }

    def test_parts_that_only_some_runs_have_precede_the_details(self) -> None:
        of_two_runs = ["gfn1", "details", "progress", "overall", "wb97m", "details", "progress"]
        assert ordered(of_two_runs) == ["overall", "gfn1", "wb97m", "details", "progress"]

    def test_a_part_of_the_data_may_have_the_name_of_a_heading(self) -> None:
        metrics = {
            "val/loss": _metric(main=True),
            "val/overall/loss": _metric(),
            "val/details/loss": _metric(),
            "val/mae": _metric(better="lower"),
        }
        assert {heading: len(found) for heading, found in charts(metrics).items()} == {"overall": 2, "details": 2}
