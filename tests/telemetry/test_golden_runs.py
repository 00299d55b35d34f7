"""Run folders written by earlier versions can be read, shown, delivered and resumed.

Only public names, commands and files are used, so the tests do not depend on the layout of the code.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.golden_runs import (
    DELIVERED,
    METRICS,
    NAMES,
    V1,
    Row,
    copy,
    expected,
    expected_rows,
    output_of,
)
from telemetry import Alert, JournalError, Settings, open_run, read_header, read_receipt, read_run
from telemetry.journal.codec import Unknown
from telemetry.sink_api import (
    Artifact,
    Closed,
    Histogram,
    Image,
    Opened,
    Record,
    Resumed,
    RunRecord,
    Scalars,
    Table,
    Text,
    hookimpl,
    read_blob,
)
from telemetry.testing import RecordingSink

SKIPPED = ("damaged", "lost", "repeated", "superseded", "unknown", "segments")
STATES = {
    "water": "failed",
    "killed": "unseen",
    "trained": "finished",
    "reporting": "failed",
    "skipping": "finished",
    "scheduled": "finished",
    "swept": "finished",
    "evaluated": "finished",
    "large": "finished",
    "media": "finished",
}
PLUGIN = """
from telemetry import Opened, hookimpl

class Sink:
    @hookimpl
    def sink_open(self, folder):
        self.path = folder.parent / "delivered.txt"
        return Opened(destination="memory")

    @hookimpl
    def sink_write(self, records):
        with self.path.open("a") as file:
            file.writelines(f"{record.seq}\\n" for record in records)
        return records[-1].seq

    @hookimpl
    def sink_close(self, status):
        with self.path.open("a") as file:
            file.write(f"{status}\\n")
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return copy(tmp_path)


def folder_of(runs: Path, name: str) -> Path:
    return runs / expected(name)["folder"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Return the undamaged lines of a journal, parsed with the json module only."""
    found = []
    for path in sorted(folder.glob("journal-*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            body, _, crc = line.rpartition(b',"crc":')
            if crc == b'"%08x"}\n' % zlib.crc32(body):
                found.append(json.loads(line))
    return found


def same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether the values are equal, where NaN equals NaN."""
    return len(one) == len(other) and all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, other, strict=True)
    )


def check_curves(folder: Path, rows: Sequence[Row], *, superseded: bool = False) -> None:
    """Check that the curves of a run match the expected rows."""
    curves = read_run(folder, superseded=superseded).curves
    assert set(curves) == {row.name for row in rows}
    for name, curve in curves.items():
        wanted = [row for row in rows if row.name == name]
        assert curve.steps.tolist() == [row.step for row in wanted]
        assert same(curve.values.tolist(), [row.value for row in wanted])
        assert curve.times.astype("int64").tolist() == [row.time for row in wanted]
        assert curve.superseded.tolist() == [row.superseded for row in wanted]
        assert curve.unit == wanted[0].unit


class TestData:
    @pytest.mark.parametrize("name", NAMES)
    def test_the_expected_tables_agree_with_the_lines_of_the_journal(self, name: str) -> None:
        seen: dict[tuple[int, str], float] = {}
        for line in lines_of(V1 / expected(name)["folder"]):
            if line["kind"] == "scalars":
                seen |= {(line["seq"], f"{line['stream']}/{key}"): float(v) for key, v in line["values"].items()}
        rows = expected_rows(name)
        assert [(row.seq, row.name) for row in rows] == sorted(seen, key=lambda key: key[0])
        assert same([row.value for row in rows], [seen[row.seq, row.name] for row in rows])

    def test_water_contains_every_irregularity_that_a_reader_must_handle(self) -> None:
        folder = V1 / "water"
        assert not (folder / "journal-0.jsonl").read_bytes().endswith(b"\n")
        lines = lines_of(folder)
        assert [line["attempt"] for line in lines if line["kind"] == "run"] == [1, 2, 2, 3]
        assert [line["step"] for line in lines if line["kind"] == "resumed"] == [40, 80]
        values = [value for line in lines for value in line.get("values", {}).values()]
        assert {value for value in values if isinstance(value, str)} == {"NaN", "Infinity", "-Infinity"}
        assert {line.get("cause", "") for line in lines if line["kind"] == "alert"} == {"", "non-finite"}
        seqs = [line["seq"] for line in lines]
        assert len(seqs) - len(set(seqs)) == 2

    def test_no_file_reveals_the_machine_that_wrote_it(self) -> None:
        for name, data in contents(V1).items():
            assert not re.search(rb"/home/|/root|\.venv|site-packages", data), name
            for host in re.findall(rb'"host":"([^"]*)"', data):
                assert host == b"node01", name


class TestReading:
    @pytest.mark.parametrize("name", NAMES)
    def test_read_run_returns_what_is_not_superseded(self, runs: Path, name: str) -> None:
        want, folder = expected(name), folder_of(runs, name)
        run = read_run(folder)
        assert (run.header.run_id, run.header.attempt) == (want["run_id"], want["attempt"])
        assert run.status == STATES[name]
        assert {key: getattr(run.skipped, key) for key in SKIPPED} == dict.fromkeys(SKIPPED, 0) | want["skipped"]
        fields = ("step", "title", "text", "level", "cause", "metric")
        defaults = {"text": "", "level": "warning", "cause": None, "metric": ""}
        assert [{key: getattr(alert, key) for key in fields} for alert in run.alerts] == [
            defaults | alert for alert in want["alerts"]
        ]
        check_curves(folder, [row for row in expected_rows(name) if not row.superseded])

    @pytest.mark.parametrize("name", NAMES)
    def test_read_run_returns_superseded_points_on_request(self, runs: Path, name: str) -> None:
        check_curves(folder_of(runs, name), expected_rows(name), superseded=True)

    def test_water_has_the_expected_counts_and_values(self, runs: Path) -> None:
        run = read_run(runs / "water")
        assert {key: count for key in SKIPPED if (count := getattr(run.skipped, key))} == {
            "damaged": 1,
            "repeated": 2,
            "superseded": 7,
        }
        assert [(alert.step, alert.title) for alert in run.alerts if alert.cause is None] == [
            (40, "learning rate halved"),
            (130, "gradient clipped"),
        ]
        assert run.curves["train/loss"].steps.tolist() == list(range(10, 131, 10))
        assert run.curves["train/loss"].values.tolist() == [100 / step for step in range(10, 131, 10)]
        assert math.isnan(run.curves["val/loss"].values[0])
        assert [run.curves["train/E_rmse"].values[i] for i in (2, 6)] == [math.inf, -math.inf]

    def test_the_header_of_water_has_its_parameters_and_metrics(self, runs: Path) -> None:
        header = read_header(runs / "water")
        assert header.params == {"seed": 7, "optimizer": {"lr": 0.001}, "files": ["gfn1.h5", "spgfn2.h5"]}
        assert header.metrics == METRICS
        assert (header.name, header.project, header.every, header.host) == ("water", "golden", 10, "node01")
        assert header.versions == {"trainer": "1.0"}

    def test_the_header_of_reporting_says_which_values_are_better(self, runs: Path) -> None:
        metrics = read_header(runs / "reporting").metrics
        assert {name: metric.better for name, metric in metrics.items()} == {
            "train/loss": "lower",
            "val/E_r2": "higher",
        }

    def test_the_receipt_of_reporting_counts_what_was_left_out_by_reason(self, runs: Path) -> None:
        told = str(read_receipt(runs / "reporting"))
        assert "left out: 1 x invalid step, 1 x undeclared metric, 1 x not a number" in told
        assert "left out" not in str(read_receipt(folder_of(runs, "skipping")))

    @pytest.mark.parametrize("name", NAMES)
    def test_the_receipt_counts_the_records(self, runs: Path, name: str) -> None:
        want, receipt = expected(name), read_receipt(folder_of(runs, name))
        assert (receipt.status, receipt.reason) == (want["status"], want["reason"])
        assert (receipt.journaled, receipt.step) == (len(want["seqs"]), want["last_step"])

    def test_the_receipt_contains_the_progress_of_each_sink(self, runs: Path) -> None:
        water = {sink.name: (sink.delivered, sink.pending) for sink in read_receipt(runs / "water").sinks}
        # 18 of the records up to DELIVERED count, and memory has rejected one.
        told = sum(seq <= DELIVERED for seq in expected("water")["seqs"])
        assert (told, len(expected("water")["seqs"]) - told) == (18, 9)
        assert water == {"memory": (17, 9), "mlflow": (18, 9), "tensorboard": (18, 9), "wandb": (18, 9)}
        assert [(s.name, s.delivered, s.pending) for s in read_receipt(runs / "killed").sinks] == [("memory", 7, 0)]
        assert [(s.name, s.delivered, s.pending) for s in read_receipt(folder_of(runs, "trained")).sinks] == [
            ("tensorboard", 24, 0)
        ]


class TestMedia:
    def test_read_run_returns_the_records_that_are_not_superseded_with_their_contents(self, runs: Path) -> None:
        run = read_run(runs / "media")
        found = [[type(r).__name__.lower(), r.name, r.step, getattr(r, "blob", None), r.seq] for r in run.media]
        assert [[*rest, blob and blob.sha256, seq] for *rest, blob, seq in found] == expected("media")["media"]
        assert {step for _, _, step, _, seq in found if seq < 10**9} == {20}
        for *_, blob, _ in found:
            if blob is not None:
                assert hashlib.sha256(read_blob(run.folder, blob)).hexdigest() == blob.sha256
        assert len(read_run(runs / "media", superseded=True).media) == len(found) + 6
        assert read_run(runs / "media", metrics=["val/loss"]).media == run.media

    def test_the_contents_are_as_they_were_recorded(self, runs: Path) -> None:
        text, table, image, values, bins, weights = read_run(runs / "media").media[-6:]
        assert isinstance(text, Text)
        assert read_run(runs / "media").blob(text).decode() == "# Notes\n\n* second `40` é"
        assert isinstance(table, Table)
        assert json.loads(read_blob(runs / "media", table.blob)) == {
            "columns": ["element", "RMSE", "atoms"],
            "rows": [["H", 0.5, 12], ["C", "NaN", 3], ["second", None, True]],
        }
        assert isinstance(image, Image)
        assert (image.width, image.height, image.caption) == (3, 2, "parity of energy, second")
        assert isinstance(values, Histogram)
        assert (values.edges[0], values.edges[-1], sum(values.counts)) == (0, pytest.approx(23.0605478), 3)
        assert isinstance(bins, Histogram)
        assert (bins.edges, bins.counts) == ([-1, 0, 2], [3, 40])
        assert isinstance(weights, Artifact)
        assert (weights.file, weights.type) == ("weights.pt", "model")

    def test_parameters_added_by_the_newest_attempt_only_are_part_of_its_header(self, runs: Path) -> None:
        assert read_run(runs / "media").header.params["seed"] == 7

    def test_a_version_without_these_kinds_skips_their_records(self, runs: Path) -> None:
        known = msgspec.json.Decoder(RunRecord | Scalars | Alert | Resumed | Closed)
        lines = (runs / "media" / "journal-1.jsonl").read_bytes().splitlines(keepends=True)
        unknown = [line for line in lines if not _decodes(known, line)]
        # All that such a version uses of them.
        assert [msgspec.json.decode(line, type=Unknown).kind for line in unknown] == [
            "text",
            "table",
            "image",
            "histogram",
            "histogram",
            "artifact",
        ]


def _decodes(decoder: msgspec.json.Decoder[Any], line: bytes) -> bool:
    try:
        decoder.decode(line)
    except msgspec.ValidationError:
        return False
    return True


class TestCommands:
    @pytest.mark.parametrize("name", NAMES)
    def test_export_writes_the_expected_table(self, runs: Path, name: str) -> None:
        whole = (V1 / "expected" / f"{name}.csv").read_text(encoding="utf-8")
        folder = folder_of(runs, name)
        assert output_of("telemetry", "export", folder, "--all") == whole
        lines = [line.rpartition(",") for line in whole.splitlines()]
        counting = [line for line, _, superseded in lines if superseded != "True"]
        assert output_of("telemetry", "export", folder).splitlines() == counting

    def test_export_writes_json_lines(self, runs: Path) -> None:
        lines = output_of("telemetry", "export", runs / "water", "--all", "--format", "jsonl").splitlines()
        found = [json.loads(line) for line in lines]
        rows = expected_rows("water")
        assert [(row["seq"], row["name"], row["superseded"]) for row in found] == [
            (row.seq, row.name, row.superseded) for row in rows
        ]
        assert same([float(row["value"]) for row in found], [row.value for row in rows])

    def test_list_shows_status_iteration_best_value_and_sinks_behind(self, runs: Path) -> None:
        lines = output_of("telemetry", "list", runs).splitlines()
        cells = {line.split()[0]: re.split(r" {2,}", line.rstrip()) for line in lines}
        # 0.001 at 100 is lower, and superseded.
        assert [cells["water"][i] for i in (1, 2, 4, 5)] == [
            "failed",
            "130",
            "memory, mlflow, tensorboard, wandb",
            "1 at 120",
        ]
        assert [cells["killed"][i] for i in (1, 2, 4, 5)] == ["unseen", "50", "-", "3 at 40"]
        trained = expected("trained")["folder"]
        best = min((row for row in expected_rows("trained") if row.name == "val/loss"), key=lambda row: row.value)
        assert [cells[trained][i] for i in (1, 2, 4, 5)] == ["finished", "10", "-", f"{best.value:.6g} at {best.step}"]

    @pytest.mark.parametrize("name", NAMES)
    def test_status_names_the_state_and_each_sink(self, runs: Path, name: str) -> None:
        want = expected(name)
        told = output_of("telemetry", "status", folder_of(runs, name))
        assert f"({want['run_id']}), attempt {want['attempt']}" in told
        assert want["reason"] in told
        for sink in read_receipt(folder_of(runs, name)).sinks:
            assert re.search(rf"^{sink.name}: .*\b{sink.delivered}\b.*\b{sink.pending}\b", told, re.MULTILINE)

    def test_show_draws_all_runs_and_lists_the_alerts(self, runs: Path) -> None:
        pytest.importorskip("plotext")
        told = output_of("telemetry", "show", *(folder_of(runs, name) for name in NAMES), "--metric", "loss", "--all")
        for name in NAMES:
            assert f"({expected(name)['run_id']})" in told
        alerts = [alert["title"] for alert in expected("water")["alerts"]]
        assert all(title in told for title in alerts)
        assert "superseded by" not in told

    def test_read_only_commands_change_nothing(self, runs: Path) -> None:
        before = contents(runs)
        for name in NAMES:
            output_of("telemetry", "export", folder_of(runs, name))
            output_of("telemetry", "status", folder_of(runs, name))
        output_of("telemetry", "list", runs)
        assert contents(runs) == before


class TestDelivery:
    def test_sync_continues_after_the_saved_cursor_if_the_sink_cannot_report_its_contents(
        self, runs: Path, tmp_path: Path
    ) -> None:
        put_plugin(tmp_path / "plugin")
        path = os.pathsep.join([str(tmp_path / "plugin"), os.environ.get("PYTHONPATH", "")])
        for _ in range(2):
            # The second call has nothing to deliver.
            output_of("telemetry", "sync", runs / "water", "--telemetry-sinks", "memory", PYTHONPATH=path)
            told = (runs / "delivered.txt").read_text().split()
            assert [line for line in told if line.isdecimal()] == [
                str(seq) for seq in expected("water")["seqs"] if seq > DELIVERED
            ]
            assert set(told[9:]) == {"failed"}
        (memory,) = [sink for sink in read_receipt(runs / "water").sinks if sink.name == "memory"]
        assert (memory.delivered, memory.pending) == (26, 0)

    def test_sync_to_a_new_destination_starts_with_the_first_record(self, runs: Path, tmp_path: Path) -> None:
        put_plugin(tmp_path / "plugin", name="other")
        path = os.pathsep.join([str(tmp_path / "plugin"), os.environ.get("PYTHONPATH", "")])
        output_of("telemetry", "sync", runs / "water", "--telemetry-sinks", "other", PYTHONPATH=path)
        told = (runs / "delivered.txt").read_text().split()
        assert told == [*map(str, expected("water")["seqs"]), "failed"]

    def test_the_rejected_record_is_identical_to_its_line_in_the_journal(self) -> None:
        (line,) = (V1 / "water" / "sinks" / "memory.rejected.jsonl").read_bytes().splitlines(keepends=True)
        assert line in (V1 / "water" / "journal-1.jsonl").read_bytes().splitlines(keepends=True)
        assert json.loads(line)["step"] == 60


class TestResume:
    def test_a_resumed_run_is_delivered_completely_to_a_new_sink_and_continued_at_a_known_one(self, runs: Path) -> None:
        folder, new, known = runs / "water", RecordingSink(), MemorySink()
        settings = Settings(every=10, poll=0.05)
        with open_run(folder, metrics=METRICS, settings=settings, resume_step=110, sinks=[new, known]) as bus:
            for step in (120, 130, 140):
                bus.publish("train", step, {"loss": 50 / step, "E_rmse": 1 / step})
            bus.publish("val", 140, {"loss": 0.5, "gfn1/E_rmse": 0.25})
            bus.alert("resumed", step=140)
            assert bus.drain(60)

        header = read_header(folder)
        assert (header.run_id, header.name, header.attempt) == ("water", "water", 4)
        assert (
            header.started == json.loads((V1 / "water" / "journal-0.jsonl").read_bytes().partition(b"\n")[0])["started"]
        )
        run = read_run(folder)
        assert run.status == "finished"
        # The previous 7, plus train at 120 and 130, val at 120 and the alert at 130.
        assert run.skipped.superseded == 7 + 4
        assert run.curves["train/loss"].steps.tolist() == list(range(10, 141, 10))
        assert run.curves["train/loss"].values.tolist() == [
            *(100 / step for step in range(10, 111, 10)),
            *(50 / step for step in (120, 130, 140)),
        ]
        assert [(alert.step, alert.title) for alert in run.alerts][-2:] == [
            (80, "recovered: all values are finite again"),
            (140, "resumed"),
        ]
        superseded = {
            line["seq"] for line in lines_of(V1 / "water") if line["seq"] > DELIVERED and line.get("step", 0) > 110
        }
        before = [seq for seq in expected("water")["seqs"] if seq not in superseded]
        after = [4_000_000_000 + n for n in range(1, 7)]
        assert [record.seq for record in new.records] == [*before, *after]
        assert [record.seq for record in known.records] == [seq for seq in [*before, *after] if seq > DELIVERED]
        assert [type(record) for record in known.records[-6:]] == [Resumed, *[Scalars] * 4, Alert]
        assert (new.closed, known.closed) == (["finished"], ["finished"])
        assert lines_of(folder)[-1]["kind"] == "closed"

    def test_a_resumed_run_keeps_its_declared_metrics(self, runs: Path) -> None:
        open_run(runs / "water", settings=Settings(every=10), resume_step=130, sinks=[]).close()
        assert read_header(runs / "water").metrics == METRICS

    def test_a_resume_does_not_change_earlier_segments(self, runs: Path) -> None:
        before = {name: data for name, data in contents(runs / "water").items() if name.startswith("journal-")}
        open_run(runs / "water", settings=Settings(every=10), resume_step=130, sinks=[]).close()
        after = contents(runs / "water")
        assert len(before) == 4
        assert {name: after[name] for name in before} == before
        assert "journal-4.jsonl" in after

    def test_a_new_run_is_opened_next_to_it_and_it_cannot_be_resumed_with_another_cadence(self, runs: Path) -> None:
        with open_run(runs / "water", metrics=METRICS, sinks=[]) as bus:
            assert bus.folder.name == "water-2"
        with pytest.raises(JournalError):
            open_run(runs / "water", metrics=METRICS, settings=Settings(every=7), resume_step=130, sinks=[])

    @pytest.mark.slow
    def test_a_run_killed_on_another_machine_can_be_resumed_after_a_minute(self, runs: Path) -> None:
        with open_run(runs / "killed", metrics=METRICS, settings=Settings(every=10), resume_step=40, sinks=[]) as bus:
            bus.publish("train", 50, {"loss": 7.0, "E_rmse": 0.0})
        run = read_run(runs / "killed")
        assert (run.status, run.header.attempt) == ("finished", 2)
        assert run.curves["train/loss"].values.tolist() == [10.0, 5.0, 100 / 30, 2.5, 7.0]
        assert (run.skipped.damaged, run.skipped.superseded) == (1, 1)


class MemorySink:
    """The third-party sink to which ``water`` was delivered; it cannot report its last record."""

    name = "memory"

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed: list[str] = []

    @hookimpl
    def sink_open(self) -> Opened:
        return Opened(destination="memory")

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        self.records += records
        return records[-1].seq

    @hookimpl
    def sink_close(self, status: str) -> None:
        self.closed.append(status)


def put_plugin(folder: Path, name: str = "memory") -> None:
    """Write an installed distribution with a sink into ``folder``, which must be on the import path."""
    info = folder / "golden_sink-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "golden_sink.py").write_text(PLUGIN.replace('"memory"', repr(name)))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: golden-sink\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[telemetry.sinks]\n{name} = golden_sink:Sink\n")
