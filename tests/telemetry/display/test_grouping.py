"""Charts are grouped by the declarations of their metrics."""

from __future__ import annotations

from support.written_runs import METRICS
from telemetry import Metric
from telemetry.display.grouping import Chart, charts


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
