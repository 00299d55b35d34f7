"""Which charts the page has, and what they say, without a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bokeh")

from support.written_runs import WrittenRun
from telemetry import Metric
from telemetry.view.chart import View, new_charts
from telemetry.view.chart_list import chart_specs, headings, streams
from telemetry.view.figures import Shared
from telemetry.view.lines import running_mean
from telemetry.view.panels import compare_parameters, flatten
from telemetry.view.run_entry import RunEntry
from telemetry.view.store import RunStore
from telemetry.view.style import stream_styles
from telemetry.view.texts import escaped, number_text


def entries(*runs: WrittenRun) -> list[RunEntry]:
    store = RunStore([run.folder for run in runs])
    store.refresh()
    return store.runs()


def test_charts_are_shared_by_runs_with_the_same_unit_and_sorted_by_heading(tmp_path: Path) -> None:
    energy = Metric(unit="kcal/mol", better="lower", main=True)
    runs = [
        WrittenRun(tmp_path / "a", metrics={"train/lr": Metric(), "val/E": energy, "val/gfn1/E": energy}),
        WrittenRun(tmp_path / "b", metrics={"val/E": energy, "val/wb97m/E": energy}),
        WrittenRun(tmp_path / "c", metrics={"val/E": Metric(unit="eV", better="lower", main=True)}),
    ]
    specs = chart_specs(entries(*runs))
    assert sorted((spec.heading, spec.title, len(spec.names)) for spec in specs) == [
        ("gfn1", "E [kcal/mol]", 1),
        ("overall", "E [eV]", 1),
        ("overall", "E [kcal/mol]", 2),
        ("progress", "lr", 1),
        ("wb97m", "E [kcal/mol]", 1),
    ]
    assert headings(specs)[0] == "overall"
    assert headings(specs)[-1] == "progress"
    assert set(streams(specs)) == {"train", "val"}


def test_the_direction_of_metrics_of_version_0_1_follows_from_their_names(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "a", metrics={"val/loss": Metric(watch=True), "val/E_r2": Metric(), "val/lr": Metric()})
    assert {spec.title: spec.better for spec in chart_specs(entries(run))} == {
        "loss": "lower",
        "E_r2": "higher",
        "lr": None,
    }


def test_the_system_has_charts_but_no_stream_to_choose_and_changes_no_other_style(tmp_path: Path) -> None:
    run = WrittenRun(
        tmp_path / "a", metrics={"system/memory": Metric(unit="GiB"), "train/loss": Metric(better="lower")}
    )
    run.points("train", 1, {"loss": 1.0})
    run.points("system", 1, {"memory": 2.0})
    store = RunStore([run.folder])
    runs = store.runs()
    curves = {(runs[0].key, name): curve for name, curve in store.curves(runs[0].key, list(run_metrics(runs))).items()}
    specs = chart_specs(runs)
    assert (headings(specs), streams(specs)) == (["overall", "system"], ["train"])
    charts = new_charts(specs, View(runs=runs, streams=["train"], shown=["train"]), curves, Shared())
    assert [(chart.spec.title, chart.lines[0].style.width) for chart in charts] == [
        ("loss", 1.6),
        ("memory [GiB]", 1.6),
    ]
    (hidden,) = new_charts(specs, View(runs=runs, streams=["train"], shown=[]), curves, Shared())
    assert hidden.spec.title == "memory [GiB]"


def run_metrics(runs: Sequence[RunEntry]) -> list[str]:
    return [name for entry in runs for name in entry.metrics]


def test_the_running_mean_ignores_gaps_and_huge_values_elsewhere() -> None:
    values = np.array([1.0, 2.0, math.nan, 4.0, 1e300, 5.0, 6.0, 7.0])
    expected = [
        np.mean([each for each in values[max(0, i - 1) : i + 2] if math.isfinite(each)]) if i != 2 else math.nan
        for i in range(len(values))
    ]
    np.testing.assert_allclose(running_mean(values, 3), expected, rtol=1e-12)


def test_a_lonely_point_between_gaps_is_drawn_as_a_dot(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "a", metrics={"val/loss": Metric(better="lower", main=True)})
    for step in range(200):
        run.point("val/loss", step, math.nan if 100 <= step < 120 and step != 110 else 1.0)
    store = RunStore([run.folder])
    runs = store.runs()
    curves = {(runs[0].key, "val/loss"): store.curves(runs[0].key, ["val/loss"])["val/loss"]}
    view = View(runs=runs, streams=["val"], shown=["val"])
    (chart,) = new_charts(chart_specs(runs), view, curves, Shared())
    assert chart.lines[0].dots.data["x"].tolist() == [110]
    assert np.isnan(chart.lines[0].source.data["y"]).sum() == 19


def test_long_curves_are_thinned_and_a_zoomed_part_is_complete(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "a", metrics={"val/loss": Metric(better="lower", main=True)})
    for step in range(5000):
        run.point("val/loss", step, 100.0 if step == 2345 else 1.0 + step % 7)
    store = RunStore([run.folder])
    runs = store.runs()
    curves = {(runs[0].key, "val/loss"): store.curves(runs[0].key, ["val/loss"])["val/loss"]}
    (chart,) = new_charts(chart_specs(runs), View(runs=runs, streams=["val"], shown=["val"]), curves, Shared())
    line = chart.lines[0]
    assert len(line.source.data["x"]) < 1100
    assert line.source.data["y"].max() == 100
    chart.update(View(runs=runs, streams=["val"], shown=["val"], window=(1000, 1200)), curves)
    drawn = line.source.data["x"]
    assert set(range(1000, 1201)) <= set(drawn.tolist())
    assert (np.diff(drawn) >= 0).all()


def test_parameters_are_compared_by_dotted_name(tmp_path: Path) -> None:
    runs = [
        WrittenRun(tmp_path / "a", params={"optimizer": {"lr": 0.1, "betas": [1, 2]}, "seed": 0}),
        WrittenRun(tmp_path / "b", params={"optimizer": {"lr": 0.2}, "note": None}),
    ]
    found = compare_parameters(sorted(entries(*runs), key=lambda entry: entry.label))
    assert found == {
        "optimizer.lr": ["0.1", "0.2"],
        "optimizer.betas": ["[1, 2]", ""],
        "seed": ["0", ""],
        "note": ["", ""],
    }
    assert flatten({"a": {"b": {"c": True}}, "d": {}}) == {"a.b.c": "True", "d": "{}"}


def test_validation_is_strong_and_the_noisiest_stream_pale() -> None:
    styles = stream_styles(["train", "train_window", "train_epoch", "val"])
    assert len({style.color for style in styles.values()}) == 4
    assert styles["train"].width < styles["train_window"].width < styles["val"].width


@pytest.mark.parametrize(
    ("value", "text"),
    [(6.25, "6.250"), (1234.5, "1234"), (12345.6, "1.235e+04"), (1e-5, "1.000e-05"), (0.0, "0.000"), (math.inf, "∞")],
)
def test_values_have_four_digits(value: float, text: str) -> None:
    assert number_text(value) == text


def test_texts_of_runs_are_escaped() -> None:
    assert escaped("<b>\x1b&") == "&lt;b&gt; &amp;"


def test_the_mean_of_the_largest_numbers_needs_no_warning() -> None:
    with np.errstate(over="raise"):
        mean = running_mean(np.array([1e308, 1e308, 1.0, 1.0, 1.0, 1.0]), 3)
    assert mean[-2:].tolist() == [1.0, 1.0]
