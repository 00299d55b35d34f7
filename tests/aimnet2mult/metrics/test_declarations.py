"""The declarations of the metrics say which are watched and which are shown first."""

from aimnet2mult.metrics.declarations import declare
from support.labels import built_in
from telemetry.display.grouping import charts
from telemetry.metrics import Metric


def test_the_loss_and_the_error_of_each_label_over_all_data_are_shown_first() -> None:
    declared = declare(built_in("energy", "forces"), ["gfn1", "gfn2"], {}, ["energy", "forces"])
    main = {name.partition("/")[2] for name, info in declared.items() if info.main}
    assert main == {"loss", "E_rmse", "F_rmse"}
    metrics = {
        name: Metric(unit=info.unit, label=info.text, better=info.better, main=info.main)
        for name, info in declared.items()
    }
    assert list(charts(metrics)) == ["overall", "gfn1", "gfn2", "details", "progress"]
    assert [chart.title for chart in charts(metrics)["overall"]] == [
        "loss",
        "RMSE of energy [kcal/mol]",
        "RMSE of forces [kcal/mol/Å]",
    ]


def test_the_errors_of_single_batches_are_not_watched() -> None:
    declared = declare(built_in("energy"), ["gfn1"], {})
    assert {name.partition("/")[0] for name, info in declared.items() if info.watch} == {
        "train_window",
        "train_epoch",
        "val",
    }
