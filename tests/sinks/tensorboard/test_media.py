"""Media in TensorBoard, and additions to the description of a run, as its server shows them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ServerAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from sinks.tensorboard.media import MAX_ROWS
from support import media_records as media
from support.tensorboard_kit import curve, curves, make_run, open_sink, resumed, scalars
from telemetry import Metric
from telemetry.sink_api import Record, RunUpdate, SinkRejected


class Shown:
    """What TensorBoard shows of the stream ``val``: step and content under each tag."""

    def __init__(self, run: Path, stream: str = "val") -> None:
        folder = run / "tensorboard" / stream
        self._found = ServerAccumulator(str(folder), tensor_size_guidance={"images": 0}).Reload()

    @functools.cached_property
    def tags(self) -> dict[str, str]:
        """The plugin of each tag."""
        tags = self._found.Tags()["tensors"]
        plugins = {tag: self._found.SummaryMetadata(tag).plugin_data.plugin_name for tag in tags}
        return {tag: plugin for tag, plugin in plugins.items() if plugin != "scalars"}

    def __getitem__(self, tag: str) -> list[tuple[int, Any]]:
        return [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in self._found.Tensors(tag)]

    def steps(self, tag: str) -> list[int]:
        return [step for step, _ in self[tag]] if tag in self.tags else []

    def text(self, tag: str) -> str:
        ((_, content),) = self[tag]
        return str(content.item().decode())

    def caption(self, tag: str) -> str:
        return str(self._found.SummaryMetadata(tag).summary_description)


def write(folder: Path, *records: Record, **fields: Any) -> None:
    sink, _ = open_sink(folder, make_run(**fields))
    sink.sink_write(records)


def test_each_kind_is_shown_once_with_its_content_and_step(tmp_path: Path) -> None:
    write(tmp_path, *media.one_of_each(tmp_path))
    shown = Shown(tmp_path)
    assert shown.tags == {
        "val/notes": "text",
        "val/errors": "text",
        "val/parity/E": "images",
        "val/residuals": "histograms",
    }
    assert shown.text("val/notes") == media.TEXT
    assert shown.text("val/errors").splitlines() == [
        "| element | RMSE | atoms |",
        "| --- | --- | --- |",
        "| H | 0.1 | 12 |",
        r"| a\|b | nan | 3 |",
        "| &lt;i&gt; |  | 0 |",
    ]
    ((step, (width, height, content)),) = shown["val/parity/E"]
    assert (step, width, height, content) == (30, b"3", b"2", media.png())
    assert shown.caption("val/parity/E") == r"parity of \*E\*"
    ((step, bins),) = shown["val/residuals"]
    assert step == 40
    np.testing.assert_array_equal(bins, [[-1, 0, 3], [0, 0.5, 0], [0.5, 2, 7]])


def test_media_delivered_again_are_shown_once(tmp_path: Path) -> None:
    records = [scalars(1), *media.one_of_each(tmp_path, 2), scalars(7, stream="val", loss=1.0)]
    write(tmp_path, *records)
    sink, found = open_sink(tmp_path)
    assert found.last_seq == 7
    sink.sink_write(records)
    shown = Shown(tmp_path)
    assert [len(shown[tag]) for tag in shown.tags] == [1, 1, 1, 1]


def test_media_lost_from_the_folder_of_a_stream_are_delivered_again(tmp_path: Path) -> None:
    records = [scalars(1), media.image(tmp_path, 2), media.image(tmp_path, 3)]
    write(tmp_path, *records)
    (path,) = (tmp_path / "tensorboard" / "val").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    sink, found = open_sink(tmp_path)
    assert found.last_seq == 2
    sink.sink_write(records)
    assert Shown(tmp_path).steps("val/parity/E") == [20, 30]
    assert [point.step for point in curve(tmp_path / "tensorboard")] == [200]


def test_media_superseded_by_a_resume_are_removed_even_in_a_stream_without_points(tmp_path: Path) -> None:
    early, late = media.image(tmp_path, 1, step=100), media.image(tmp_path, 2, step=300)
    write(tmp_path, early, late)
    # Another instance, which knows the stream only from the files.
    again = media.image(tmp_path, 10**9 + 2, step=200)
    write(tmp_path, resumed(10**9 + 1, 100), again, attempt=2)
    assert Shown(tmp_path).steps("val/parity/E") == [100, 200]


def test_a_medium_that_was_written_only_to_the_stream_is_removed_by_a_resume(tmp_path: Path) -> None:
    write(tmp_path, media.image(tmp_path, 1, step=300))
    # The run's own folder has the event of the record last.
    (path,) = (tmp_path / "tensorboard").glob("events*")
    path.write_bytes(path.read_bytes()[:-10])
    write(tmp_path, resumed(10**9 + 1, 100), attempt=2)
    assert Shown(tmp_path).steps("val/parity/E") == []


def test_records_before_a_medium_whose_content_has_changed_are_written(tmp_path: Path) -> None:
    sink, _ = open_sink(tmp_path)
    records = [scalars(1), media.text(tmp_path, 2), media.image(tmp_path, 3), scalars(4)]
    (tmp_path / "blobs" / records[2].blob.file).write_bytes(b"something else")
    with pytest.raises(SinkRejected, match="has changed"):
        sink.sink_write(records)
    sink.sink_write(records[:2])
    with pytest.raises(SinkRejected, match="has changed"):
        sink.sink_write(records[2:3])
    sink.sink_write(records[3:])
    shown = Shown(tmp_path)
    assert (shown.steps("val/notes"), shown.tags) == ([20], {"val/notes": "text"})
    assert [point.step for point in curve(tmp_path / "tensorboard")] == [200, 800]


def test_kinds_and_metrics_with_the_same_name_are_all_shown(tmp_path: Path) -> None:
    records = [
        scalars(1, stream="val", loss=0.5),
        media.text(tmp_path, 2, "val/loss"),
        media.image(tmp_path, 3, "val/loss"),
        media.histogram(4, "val/loss"),
    ]
    write(tmp_path, *records[:3])
    write(tmp_path, *records)
    assert Shown(tmp_path).tags == {
        "val/loss": "text",
        "val/loss (image)": "images",
        "val/loss (histogram)": "histograms",
    }
    assert curves(tmp_path, "val") == {"1 overall/1 loss": [(200, 0.5)]}


def test_long_tables_are_cut(tmp_path: Path) -> None:
    write(tmp_path, media.table(tmp_path, 1, rows=[["H", n, n] for n in range(MAX_ROWS + 7)]))
    lines = Shown(tmp_path).text("val/errors").splitlines()
    assert (len(lines), lines[-1]) == (MAX_ROWS + 4, "… and 7 more rows")


def test_metrics_that_appear_later_are_described_like_declared_ones(tmp_path: Path) -> None:
    late = {"val/E_rmse": Metric(unit="eV", label="RMSE of energy", main=True, better="lower")}
    sink, _ = open_sink(tmp_path, make_run(metrics={"train/loss": Metric()}, params={"lr": 0.1}))
    sink.sink_write([scalars(1), RunUpdate(seq=2, time=0, metrics=late)])
    sink.sink_write([scalars(3, stream="val", E_rmse=2.0)])
    assert curves(tmp_path, "val") == {"1 overall/2 E_rmse [eV]": [(600, 2.0)]}
    own = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert own.SummaryMetadata("val/E_rmse").summary_description == r"RMSE of energy \[eV\]"
    newest = own.Tensors("run/units")[-1].tensor_proto.string_val[0].decode()
    assert "| val/E\\_rmse | eV | eV | RMSE of energy |" in newest
    assert b"E_rmse" in own.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]


def test_without_declarations_hyperparameters_wait_for_the_validation(tmp_path: Path) -> None:
    """TensorBoard keeps the parameters and metrics that it reads first."""
    sink, _ = open_sink(tmp_path, make_run(metrics={}))
    sink.sink_write([RunUpdate(seq=1, time=0, metrics={"train/loss": Metric(unit="")}), scalars(2)])
    sink.sink_write([RunUpdate(seq=3, time=0, params={"lr": 0.1})])
    sink.sink_write(
        [RunUpdate(seq=4, time=0, metrics={"val/loss": Metric(unit="")}), scalars(5, None, "val", loss=1.0)]
    )
    own = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    content = own.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["val/loss"]
    assert [info.display_name for info in experiment.hparam_infos] == ["lr"]
