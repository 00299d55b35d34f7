"""The summaries next to the curves: the chart layout, and tables about the run."""

import html
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from sinks._run_tables import markdown_table
from sinks.tensorboard.hparams import is_described, main_params
from support.tensorboard_kit import METRICS, STARTED, curves, event_files, make_run, open_sink, resumed, scalars
from telemetry import Alert, Metric
from telemetry.sink_api import Chart, charts

with warnings.catch_warnings():
    # Issued when TensorBoard's own copy of html5lib is imported.
    warnings.filterwarnings("ignore", "html5lib's sanitizer is deprecated", DeprecationWarning)
    from tensorboard.plugin_util import markdown_to_safe_html


def tensors(folder: Path, tag: str) -> list[bytes]:
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return [make_ndarray(event.tensor_proto).item() for event in accumulator.Tensors(tag)]


def layout(folder: Path) -> Any:
    """Return the newest layout of the Custom Scalars tab."""
    return layout_pb2.Layout.FromString(tensors(folder, "custom_scalars__config__")[-1])


def summary_tags(folder: Path) -> list[str]:
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    return accumulator.Reload().Tags()["tensors"]


def cells(markdown: str) -> list[list[str]]:
    """Return the cells of a table as TensorBoard shows them, without the header row."""
    rows = re.findall(r"<tr>(.*?)</tr>", markdown_to_safe_html(markdown), re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row, re.DOTALL)] for row in rows][1:]


def shown(folder: Path, tag: str) -> list[list[str]]:
    (text,) = tensors(folder, tag)
    return cells(text.decode())


class TestCharts:
    def test_the_streams_of_a_quantity_share_a_chart_with_the_unit_in_its_title(self):
        assert charts(METRICS) == {
            "overall": [
                Chart("loss", ["train/loss", "train_window/loss", "val/loss"]),
                Chart("RMSE of energy [kcal/mol]", ["train/E_rmse", "train_window/E_rmse", "val/E_rmse"]),
            ],
            "gfn1": [
                Chart("RMSE of energy, gfn1 [kcal/mol]", ["train_window/gfn1/E_rmse", "val/gfn1/E_rmse"]),
            ],
        }

    def test_names_may_have_any_form(self):
        metrics = {
            "rank/a/b/speed": Metric(unit="1/s"),
            "x/T (K)": Metric(unit="K", label="temperature"),
            "y/T (K)": Metric(unit="K", label="temperature of the bath"),
        }
        assert charts(metrics) == {
            "a/b": [Chart("speed [1/s]", ["rank/a/b/speed"])],
            "overall": [Chart("T (K) [K]", ["x/T (K)", "y/T (K)"])],
        }

    def test_a_name_with_two_units_has_two_charts(self):
        metrics = {"train/E": Metric(unit="kcal/mol"), "val/E": Metric(unit="eV"), "test/E": Metric(unit="eV")}
        assert charts(metrics) == {
            "overall": [Chart("E [kcal/mol]", ["train/E"]), Chart("E [eV]", ["val/E", "test/E"])]
        }

    def test_the_layout_matches_exactly_its_own_curves(self, tmp_path):
        names = ["E.rmse", "E_rmse", "E_rmse_max", "Ex(2)"]
        sink, _ = open_sink(tmp_path, make_run(metrics={f"train/{name}": Metric() for name in names}))
        sink.sink_write([scalars(1, **dict.fromkeys(names, 1.0))])
        (category,) = layout(tmp_path).category
        tags = [f"1 overall/{number} {name}" for number, name in enumerate(names, 1)]
        # Matched as by the plugin.
        found = [[t for t in tags for tag in c.multiline.tag if re.match(tag, t)] for c in category.chart]
        assert found == [[tag] for tag in tags]
        assert list(curves(tmp_path, "train")) == tags

    def test_only_the_first_heading_is_expanded(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1, stream="val", **{"loss": 1.0, "gfn1/E_rmse": 1.0})])
        assert [(c.title, c.closed) for c in layout(tmp_path).category] == [("overall", False), ("gfn1", True)]

    def test_the_layout_grows_with_the_metrics_that_have_points_and_has_no_empty_charts(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        assert "custom_scalars__config__" not in summary_tags(tmp_path)
        sink.sink_write([scalars(1)])
        assert [[c.title for c in category.chart] for category in layout(tmp_path).category] == [["loss"]]
        sink.sink_write([scalars(2, stream="val", **{"gfn1/E_rmse": 1.0})])
        sink.sink_write([scalars(3, stream="val", **{"gfn1/E_rmse": 1.0})])
        assert [[c.title for c in category.chart] for category in layout(tmp_path).category] == [
            ["loss"],
            ["RMSE of energy, gfn1 [kcal/mol]"],
        ]
        assert len(tensors(tmp_path, "custom_scalars__config__")) == 2


class TestTables:
    def test_parameters_are_listed_by_dotted_name(self, tmp_path):
        params: dict[str, Any] = {"optimizer": {"lr": 1e-3, "betas": [0.9, None], "none": {}}, "amp": True, "name": "å"}
        open_sink(tmp_path, make_run(params=params))
        assert shown(tmp_path, "run/parameters") == [
            ["optimizer.lr", "0.001"],
            ["optimizer.betas", "[0.9, null]"],
            ["optimizer.none", "{}"],
            ["amp", "true"],
            ["name", "å"],
        ]

    def test_each_metric_is_listed_with_its_units(self, tmp_path):
        metric = Metric(unit="kcal/mol/Å", source_unit="eV/particle/angstrom", label="RMSE of forces")
        open_sink(tmp_path, make_run(metrics={"val/gfn1/F_rmse": metric}))
        assert shown(tmp_path, "run/units") == [
            ["val/gfn1/F_rmse", "kcal/mol/Å", "eV/particle/angstrom", "RMSE of forces"]
        ]

    def test_the_run_is_described(self, tmp_path):
        open_sink(tmp_path, make_run(name="Water & ice", project="p|q", host="node_1_a", versions={"torch": "2.13.0"}))
        assert shown(tmp_path, "run/about") == [
            ["name", "Water & ice"],
            ["run", "water"],
            ["project", "p|q"],
            ["started", "2023-11-14T22:13:20Z"],
            ["attempt", "1"],
            ["attempt on", "node_1_a"],
            ["a point every", "200 iterations"],
            ["torch", "2.13.0"],
        ]

    def test_a_start_time_in_the_far_future_is_accepted(self, tmp_path):
        open_sink(tmp_path, make_run(started=(1 << 62) - 1))
        assert ["attempt", "1"] in shown(tmp_path, "run/about")

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1), min_size=2, max_size=2)
    )
    def test_a_table_shows_any_text_unchanged(self, row):
        assert cells(markdown_table(("a", "b"), [row])) == [[" ".join(cell.split()) for cell in row]]

    @pytest.mark.parametrize(
        "text",
        [
            "<script>alert(1)</script>",
            "<b>bold</b> &amp;",
            "[x](javascript:alert(1))",
            "a | b\nc",
            "**b** `c` ~d~ _e_ \\|",
        ],
    )
    def test_markup_in_a_parameter_is_shown_as_text(self, text):
        assert cells(markdown_table(("a", "b"), [("name", text)])) == [["name", " ".join(text.split())]]

    @pytest.mark.parametrize("status", ["finished", "failed", "preempted", "killed"])
    def test_the_final_status_is_shown(self, tmp_path, status):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        sink.sink_close(status)
        assert tensors(tmp_path, "run/status") == [status.encode()]

    def test_the_status_right_after_a_resume_is_shown_at_the_iteration_resumed_from(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1, 1), scalars(2, 2), resumed(10**9 + 1, step=1)])
        sink.sink_close("killed")
        accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
        accumulator.Reload()
        assert [e.step for e in accumulator.Tensors("run/status")] == [1]

    def test_the_status_of_each_attempt_is_shown_at_its_last_iteration(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1)])
        sink.sink_close("preempted")
        sink, _ = open_sink(tmp_path, make_run(attempt=2))
        sink.sink_write([scalars(2)])
        sink.sink_close("finished")
        accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
        accumulator.Reload()
        ends = [(e.step, make_ndarray(e.tensor_proto).item()) for e in accumulator.Tensors("run/status")]
        assert ends == [(200, b"preempted"), (400, b"finished")]


class TestRepetition:
    def test_opening_again_writes_nothing(self, tmp_path):
        open_sink(tmp_path)
        (path,) = event_files(tmp_path / "tensorboard")
        before = path.read_bytes()
        open_sink(tmp_path, make_run(time=5, pid=77))
        assert [p.read_bytes() for p in event_files(tmp_path / "tensorboard")] == [before]

    def test_a_later_attempt_writes_only_changed_tables(self, tmp_path):
        open_sink(tmp_path, make_run(params={"lr": 1}))
        open_sink(tmp_path, make_run(params={"lr": 2}, attempt=2))
        assert [cells(n.decode()) for n in tensors(tmp_path, "run/parameters")] == [[["lr", "1"]], [["lr", "2"]]]
        assert len(tensors(tmp_path, "run/units")) == 1

    def test_summaries_lost_from_a_truncated_file_are_written_again(self, tmp_path):
        open_sink(tmp_path)[0].sink_write([scalars(1)])
        (path,) = event_files(tmp_path / "tensorboard")
        path.write_bytes(path.read_bytes()[:-5])
        open_sink(tmp_path)
        assert len(tensors(tmp_path, "custom_scalars__config__")) == 1
        assert len(tensors(tmp_path, "run/about")) == 1


class TestHparams:
    def test_at_most_ten_parameters_are_compared_those_that_are_tuned_most_often_first(self):
        params = {
            "run_name": "water",
            "seed": 3,
            "data": {"samplers": {"train": {"batch_size": 32}, "val": {"batch_size": 256}}, "keys": {}},
            "loss": {"components": {f"term{i}": {"weight": float(i), "fn": "mse"} for i in range(3)}},
            "optimizer": {"class": "Adam", "kwargs": {"lr": 1e-3}},
            "scheduler": {"class": None},
            "trainer": {"epochs": 4, "clip_grad_norm": math.inf, "stop_below_lr": 1e-6},
            "model": {"kwargs": {"hidden": [[96], [96]], "ncomb_v": 4}},
        }
        assert list(main_params(params).items()) == [
            ("optimizer.kwargs.lr", 1e-3),
            ("data.samplers.train.batch_size", 32),
            ("trainer.epochs", 4),
            ("optimizer.class", "Adam"),
            ("loss.components.term0.weight", 0.0),
            ("loss.components.term1.weight", 1.0),
            ("loss.components.term2.weight", 2.0),
            ("model.kwargs.hidden", "[[96], [96]]"),
            ("trainer.clip_grad_norm", "inf"),
            ("seed", 3),
        ]

    def test_all_of_a_few_parameters_are_compared(self):
        assert main_params({"depth": 2, "act": "gelu", "amp": True}) == {"depth": 2, "act": "gelu", "amp": True}

    def test_metrics_of_the_system_are_no_reason_to_write_them(self):
        system = {"system/memory": Metric(unit="GiB")}
        assert not is_described(make_run(metrics=system, params={"lr": 0.5}))
        assert is_described(make_run(metrics=system | {"val/loss": Metric(unit="")}, params={"lr": 0.5}))

    def test_they_are_next_to_the_main_metrics_of_the_last_stream(self, tmp_path):
        run = make_run(params={"depth": 2, "lr": 0.5, "amp": True})
        open_sink(tmp_path, run)
        experiment = hparams(tmp_path, "experiment").experiment
        assert [info.display_name for info in experiment.hparam_infos] == ["lr", "depth", "amp"]
        assert [(info.name.group, info.name.tag, info.display_name) for info in experiment.metric_infos] == [
            ("", "val/loss", "val loss"),
            ("", "val/E_rmse", "val RMSE of energy [kcal/mol]"),
        ]
        start = hparams(tmp_path, "session_start_info").session_start_info
        assert {info.display_name: start.hparams[info.name] for info in experiment.hparam_infos} == {
            "lr": Value(number_value=0.5),
            "depth": Value(number_value=2),
            "amp": Value(bool_value=True),
        }

    @pytest.mark.parametrize("status", ["failed", "preempted", "killed"])
    def test_only_a_finished_run_has_a_final_status_because_others_may_be_resumed(self, tmp_path, status):
        sink, _ = open_sink(tmp_path, make_run(params={"lr": 0.1}))
        sink.sink_close(status)
        assert "_hparams_/session_end_info" not in summary_tags(tmp_path)
        sink.sink_close("finished")
        end = hparams(tmp_path, "session_end_info").session_end_info
        assert (end.status, end.end_time_secs) == (api_pb2.STATUS_SUCCESS, STARTED / 1000)


def hparams(folder: Path, kind: str) -> Any:
    accumulator = EventAccumulator(str(folder / "tensorboard")).Reload()
    data = accumulator.SummaryMetadata(f"_hparams_/{kind}").plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(data)


class TestAlerts:
    def test_each_alert_is_shown_once_as_a_text_at_its_iteration(self, tmp_path):
        records = [
            scalars(1, 200),
            Alert(seq=2, time=5000, step=200, title="loss is *NaN*", text="likewise <b>", level="error"),
            Alert(seq=3, time=6000, step=400, title="recovered", level="info"),
        ]
        for _ in range(2):
            sink, _ = open_sink(tmp_path)
            assert sink.sink_write(records) == 3
        accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
        accumulator.Reload()
        found = [(e.step, e.wall_time, make_ndarray(e.tensor_proto).item()) for e in accumulator.Tensors("run/alerts")]
        assert [(step, time) for step, time, _ in found] == [(200, 5.0), (400, 6.0)]
        assert [markdown_to_safe_html(text.decode()) for *_, text in found] == [
            "<p>error: <strong>loss is *NaN*</strong>: likewise &lt;b&gt;</p>",
            "<p>info: <strong>recovered</strong></p>",
        ]

    def test_an_alert_counts_as_written_if_it_is_the_last_record(self, tmp_path):
        sink, _ = open_sink(tmp_path)
        sink.sink_write([scalars(1, 200), Alert(seq=2, time=5000, step=200, title="!")])
        assert open_sink(tmp_path)[1].last_seq == 2
