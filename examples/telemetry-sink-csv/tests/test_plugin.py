"""Find the sink by name, deliver a run with it, and check that it leaves other files alone."""

import csv
import re
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from telemetry import Settings, open_run
from telemetry.cli import main
from telemetry.plugins.registry import select
from telemetry.sink_api import Metric, SettingError, SinkRejected
from telemetry.testing import run_record


def test_a_delivery_process_writes_the_run_in_its_units(tmp_path):
    settings = Settings(sinks=("csv",), every=1, poll=0.05, options={"csv": {"file": "curves.csv"}})
    metrics = {"val/E_rmse": Metric(unit="kcal/mol", source_unit="eV/particle")}
    with open_run(tmp_path / "run", metrics=metrics, settings=settings) as bus:
        for step in (10, 20, 30):
            bus.publish("val", step, {"E_rmse": step / 10})
    with (tmp_path / "run" / "curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["name"], row["unit"]) for row in rows] == [
        (str(step), "val/E_rmse", "kcal/mol") for step in (10, 20, 30)
    ]
    assert [float(row["value"]) for row in rows] == pytest.approx([23.060547830619 * n for n in (1, 2, 3)])


def test_it_is_listed_with_its_option_alongside_the_built_in_sinks():
    listed = CliRunner().invoke(main, ["sinks"]).stdout
    package = f"telemetry-sink-csv {version('telemetry-sink-csv')}"
    assert f"csv  ({package})  installed\n    telemetry.csv.file: str = 'metrics.csv'\n" in listed
    assert "\ntensorboard  (aimnet2mult " in listed


def test_a_run_trained_without_the_sink_is_delivered_later_exactly_once(tmp_path):
    with open_run(tmp_path / "run", metrics={"train/loss": Metric()}, sinks=[], settings=Settings(every=1)) as bus:
        for step in (1, 2):
            bus.publish("train", step, {"loss": 1 / step})
    for _ in range(2):
        done = CliRunner().invoke(main, ["sync", str(tmp_path / "run"), "--telemetry-sinks", "csv"])
        assert (done.exit_code, "csv: closed; 2 delivered, 0 pending" in done.stdout) == (0, True)
    rows = (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8").split()
    assert [row.split(",")[2:] for row in rows[1:]] == [
        ["1", "train/loss", "1.0", "1"],
        ["2", "train/loss", "0.5", "1"],
    ]


@pytest.mark.parametrize("file", ["/metrics.csv", "../metrics.csv", "", "..", "a/b.csv", "journal-0.jsonl"])
def test_a_path_outside_the_run_folder_or_another_file_type_is_rejected(file):
    with pytest.raises(SettingError, match=re.escape(f"telemetry.csv.file is {file!r}")):
        select(["csv"], {"csv": {"file": file}})


def test_a_file_not_written_by_this_sink_is_left_unchanged(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n\n1,2\n")
    (sink,) = select(["csv"], {"csv": {"file": "mine.csv"}})
    with pytest.raises(SinkRejected, match=r"mine\.csv was not written by this sink"):
        sink.create().sink_open(run=run_record(), folder=tmp_path)
    assert path.read_text() == "a,b\n\n1,2\n"
