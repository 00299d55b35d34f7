"""The content of W&B runs: rows, configuration, status and alerts, over one or more attempts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.wandb_kit import (
    client_pids,
    config,
    deliver,
    exit_codes,
    inspect,
    open_sink,
    records,
    rows,
    seqs,
    summary,
    transaction_logs,
    wait_for,
)
from support.written_runs import WrittenRun
from telemetry import Alert, Metric
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import SinkRejected, SinkUnavailable
from telemetry.testing.points import STARTED, resumed, run_record, sample, scalars


class TestRows:
    def test_each_record_is_one_row_with_iteration_number_attempt_and_recording_time(self, tmp_path: Path) -> None:
        deliver(tmp_path, [scalars(7, 200, loss=0.5, E_rmse=12.0), scalars(9, 200, "val", loss=0.25)])
        first, second = rows(tmp_path)
        assert {key: value for key, value in first.items() if key != "_runtime"} == {
            "_step": 0,
            "_timestamp": (STARTED + 7 * 1001) / 1000,
            "train/loss": 0.5,
            "train/E_rmse": 12.0,
            "trainer/iteration": 200,
            "telemetry/seq": 7,
            "telemetry/attempt": 1,
        }
        assert (second["val/loss"], second["trainer/iteration"], second["_step"]) == (0.25, 200, 1)

    def test_the_iteration_is_the_x_axis_of_each_metric(self, tmp_path: Path) -> None:
        run = run_record(metrics={"train/loss": Metric(), "val/fid 1/E_rmse": Metric(unit="kcal/mol")})
        sink, _ = open_sink(tmp_path, run)
        sink.sink_write([scalars(1)])
        sink.sink_close("finished", "")
        metrics = {metric["name"]: metric for metric in records(tmp_path, "metric")}
        assert {name: metric.get("step_metric") for name, metric in metrics.items()} == {
            "trainer/iteration": None,
            "telemetry/seq": None,
            "telemetry/attempt": None,
            "train/loss": "trainer/iteration",
            "val/fid 1/E_rmse": "trainer/iteration",
        }
        hidden = {name for name, metric in metrics.items() if metric.get("options", {}).get("hidden")}
        assert hidden == {"trainer/iteration", "telemetry/seq", "telemetry/attempt"}

    def test_the_iteration_is_the_x_axis_of_undeclared_metrics(self, tmp_path: Path) -> None:
        sink, _ = open_sink(tmp_path, run_record(metrics={}))
        sink.sink_write([scalars(1)])
        sink.sink_close("finished", "")
        (anything,) = [metric for metric in records(tmp_path, "metric") if "glob_name" in metric]
        assert (anything["glob_name"], anything["step_metric"]) == ("*", "trainer/iteration")

    def test_the_step_increases_even_over_attempts_from_earlier_iterations(self, tmp_path: Path) -> None:
        deliver(tmp_path, [scalars(seq, step) for seq, step in enumerate((10, 20, 30), 1)], "preempted")
        again = [resumed(10**9 + 1, 10), *(scalars(10**9 + step, step) for step in (20, 30, 40))]
        deliver(tmp_path, again[:2], "killed")
        deliver(tmp_path, again)
        found = [(r["_step"], r["trainer/iteration"], r["telemetry/attempt"]) for r in rows(tmp_path)]
        assert found == [(0, 10, 1), (1, 20, 1), (2, 30, 1), (3, 20, 2), (4, 30, 2), (5, 40, 2)]

    def test_a_closed_instance_can_continue(self, tmp_path: Path) -> None:
        sink = deliver(tmp_path, [scalars(1), resumed(2, 0), scalars(3)])
        sink.sink_write([scalars(4)])
        sink.sink_close("finished", "")
        assert [(r["telemetry/seq"], r["_step"], r["telemetry/attempt"]) for r in rows(tmp_path)] == [
            (1, 0, 1),
            (3, 1, 2),
            (4, 2, 2),
        ]

    @pytest.mark.parametrize("name", ["trainer/iteration", "telemetry/seq", "telemetry/attempt"])
    def test_only_the_rows_of_a_reserved_name_are_rejected(self, tmp_path: Path, name: str) -> None:
        stream, _, metric = name.partition("/")
        second = msgspec.structs.replace(scalars(2), stream=stream, values={metric: 5.0})
        sink, _ = open_sink(tmp_path, run_record(metrics={name: Metric(), "train/loss": Metric()}))
        with pytest.raises(SinkRejected, match=f"'{name}' is reserved"):
            sink.sink_write([scalars(1), second])
        sink.sink_write([scalars(3)])
        sink.sink_close("finished", "")
        assert seqs(tmp_path) == [1, 3]

    def test_a_name_that_wandb_cannot_define_is_delivered(self, tmp_path: Path) -> None:
        record = msgspec.structs.replace(scalars(1), values={"E*F": 5.0, "all*": 6.0, "l\u00fc\n\0": 7.0})
        metrics = {name: Metric(unit="eV") for name, _ in record.items()}
        sink, _ = open_sink(tmp_path, run_record(metrics=metrics))
        sink.sink_write([record])
        sink.sink_close("finished", "")
        (row,) = rows(tmp_path)
        assert [row[name] for name in metrics] == [5.0, 6.0, 7.0]

    def test_twenty_thousand_rows_are_delivered_and_read_back_in_seconds(self, tmp_path: Path) -> None:
        batch = [scalars(seq, loss=1 / seq, E_rmse=1.0, F_rmse=2.0, q_rmse=3.0) for seq in range(1, 20_001)]
        started = os.times().elapsed
        sink, _ = open_sink(tmp_path)
        for first in range(0, len(batch), 1000):
            sink.sink_write(batch[first : first + 1000])
        sink.sink_close("finished", "")
        delivered = os.times().elapsed
        assert delivered - started < 30
        assert open_sink(tmp_path)[1].last_seq == 20_000
        assert os.times().elapsed - delivered < 10


class TestRun:
    def test_the_configuration_contains_parameters_units_and_labels(self, tmp_path: Path) -> None:
        energy = Metric(unit="kcal/mol", label="RMSE of energy", better="lower")
        metrics = {"train/E_rmse": energy, "train/loss": Metric()}
        run = run_record(
            metrics=metrics, params={"seed": 7, "optimizer": {"lr": 0.001}, "data": [1, 2]}, versions={"torch": "2.10"}
        )
        sink, _ = open_sink(tmp_path, run)
        sink.sink_close("finished", "")
        found = config(tmp_path)
        assert (found["seed"], found["optimizer"], found["data"]) == (7, {"lr": 0.001}, [1, 2])
        assert found["telemetry/units"] == {"train/E_rmse": "kcal/mol"}
        assert found["telemetry/labels"] == {"train/E_rmse": "RMSE of energy"}
        assert found["telemetry/better"] == {"train/E_rmse": "lower"}
        about = found["telemetry/run"]
        assert (about["id"], about["every"], about["attempt"]) == ("water", 10, 1)
        assert about["versions"] == {"torch": "2.10"}

    def test_the_summary_has_the_best_validation_values_of_the_valid_points(self, tmp_path: Path) -> None:
        error = Metric(unit="kcal/mol", better="lower", main=True)
        metrics = {"val/E_rmse": error, "train/E_rmse": error, "val/lr": Metric()}
        written = WrittenRun(tmp_path / "run", metrics=metrics)
        for step, value in ((10, 9.0), (20, 1.0), (30, 2.0)):
            written.point("val/E_rmse", step, value)
        written.point("train/E_rmse", 30, 0.5)
        written.begin(resume_step=15)
        written.point("val/E_rmse", 20, 8.0)
        reader = JournalReader(written.folder, superseded=True)
        record = run_record(metrics=metrics)
        # A new file for each call: W&B itself would start over in each.
        for status, count in (("killed", 2), ("killed", 2), ("finished", 9)):
            sink, _ = open_sink(written.folder, record)
            sink.sink_write(reader.read(count, live=False))
            sink.sink_close(status, "")
        assert [row.get("best/val/E_rmse") for row in rows(written.folder)] == [9.0, 1.0, 1.0, None, 8.0]
        assert summary(written.folder)["best/val/E_rmse"] == 8.0
        metric = [each for each in records(written.folder, "metric") if each["name"] == "best/val/E_rmse"]
        assert {each["step_metric"] for each in metric} == {"trainer/iteration"}

    def test_a_resume_without_further_validation_corrects_the_best_value_in_the_summary(self, tmp_path: Path) -> None:
        metrics = {"val/E_rmse": Metric(better="lower")}
        sink, _ = open_sink(tmp_path, run_record(metrics=metrics))
        sink.sink_write([scalars(1, 10, "val", E_rmse=9.0), scalars(2, 20, "val", E_rmse=1.0), resumed(10**9 + 1, 10)])
        sink.sink_close("finished", "")
        assert summary(tmp_path)["best/val/E_rmse"] == 9.0

    def test_name_project_group_tags_and_notes_can_be_set_by_options(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"name": "n", "project": "p", "entity": "e", "group": "g", "notes": "two\nlines"}
        deliver(tmp_path, [], tags=["a", "b c"], job_type="pretrain", **options)
        (run,) = records(tmp_path, "run")
        assert run["job_type"] == "pretrain"
        assert (run["display_name"], run["project"], run["entity"], run["run_group"]) == ("n", "p", "e", "g")
        assert (run["notes"], run["tags"]) == ("two\nlines", ["a", "b c"])

    def test_name_and_project_are_those_of_the_run_by_default_and_not_of_the_folder(
        self, tmp_path: Path, monkeypatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for number, (project, shown) in enumerate([("water-models", "water-models"), (None, "uncategorized")]):
            folder = tmp_path / str(number)
            sink, _ = open_sink(folder, run_record(name="water, long", project=project))
            sink.sink_close("finished", "")
            (run,) = records(folder, "run")
            assert (run["display_name"], run["project"], run["job_type"]) == ("water, long", shown, "train")

    def test_environment_variables_are_used_without_options(self, tmp_path: Path, monkeypatch) -> None:
        for name, value in (("PROJECT", "p"), ("RUN_GROUP", "g"), ("TAGS", "a,b"), ("JOB_TYPE", "j")):
            monkeypatch.setenv(f"WANDB_{name}", value)
        for name, value in (("RUN_ID", "x"), ("RESUME", "must")):
            monkeypatch.setenv(f"WANDB_{name}", value)
        deliver(tmp_path / "run", [scalars(1)])
        (run,) = records(tmp_path / "run", "run")
        assert (run["project"], run["run_group"], run["tags"], run["job_type"]) == ("p", "g", ["a", "b"], "j")
        assert run["run_id"] != "x"
        assert seqs(tmp_path / "run") == [1]

    def test_system_metrics_are_collected_only_if_the_trainer_runs_here(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import wandb

        used: list[wandb.Settings] = []
        real = wandb.init

        def spy(**arguments: Any) -> Any:
            used.append(arguments["settings"])
            return real(**arguments)

        monkeypatch.setattr(wandb, "init", spy)
        with subprocess.Popen(["/bin/sleep", "60"]) as trainer:
            pids = {"alive": trainer.pid, "elsewhere": trainer.pid, "dead": 0}
            hosts = {"elsewhere": "another-host"}
            try:
                for what, pid in pids.items():
                    folder = tmp_path / what
                    sink, _ = open_sink(folder, run_record(pid=pid, host=hosts.get(what, socket.gethostname())))
                    sink.sink_close("finished", "")
                    settings = used.pop()
                    measured = what == "alive"
                    assert settings.x_stats_pid == pid
                    assert settings.x_disable_stats is not measured
                    assert settings.x_disable_meta is not measured
                    assert bool(records(folder, "environment")) is measured
            finally:
                trainer.kill()

    def test_neither_console_output_nor_code_is_captured(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        sink, _ = open_sink(tmp_path)
        sink.sink_write(sample(1, 3))
        print("a secret of the console")  # noqa: T201 - console output is under test
        sink.sink_close("finished", "")
        assert capfd.readouterr() == ("a secret of the console\n", "")
        content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"a secret of the console" not in content
        assert not list(tmp_path.rglob("requirements.txt"))
        assert not list(tmp_path.rglob("*.patch"))


class TestStatus:
    @pytest.mark.parametrize(("status", "code"), [("finished", 0), ("failed", 1), ("preempted", 143), ("killed", 137)])
    def test_each_status_has_its_exit_code_and_summary(self, tmp_path: Path, status: str, code: int) -> None:
        deliver(tmp_path, sample(1, 3), status, "for a reason")
        assert exit_codes(tmp_path) == [code]
        kinds = [record["type"] for record in inspect(transaction_logs(tmp_path)[0])]
        assert ("preempting" in kinds) is (status == "preempted")
        summary = {"telemetry/status": status, "telemetry/reason": "for a reason", "telemetry/alert": 0}
        assert summary in [record["update"] for record in records(tmp_path, "summary")]

    def test_closing_again_changes_nothing_in_any_instance_or_process(self, tmp_path: Path) -> None:
        sink = deliver(tmp_path, sample(1, 3), "failed")
        before = self.state(tmp_path)
        sink.sink_close("failed", "")
        again, found = open_sink(tmp_path)
        again.sink_close("failed", "")
        assert found.last_seq == 3
        script = f"""
import pathlib, sys
from support.wandb_kit import open_sink
sink, found = open_sink(pathlib.Path({str(tmp_path)!r}))
sink.sink_close("failed", "")
assert found.last_seq == 3
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
        assert self.state(tmp_path) == before

    def test_a_different_status_without_new_points_is_written(self, tmp_path: Path) -> None:
        deliver(tmp_path, sample(1, 3), "killed")
        deliver(tmp_path, sample(1, 3), "finished")
        assert exit_codes(tmp_path) == [137, 0]
        assert seqs(tmp_path) == [1, 2, 3]

    def test_a_run_finished_by_wandb_itself_is_still_closed(self, tmp_path: Path) -> None:
        script = f"""
import pathlib, sys
from support.wandb_kit import open_sink
from telemetry.testing.points import sample
open_sink(pathlib.Path({str(tmp_path)!r}))[0].sink_write(sample(1, 3))
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
        assert seqs(tmp_path) == [1, 2, 3]
        deliver(tmp_path, sample(1, 3), "finished")
        assert "finished" in [summary["update"].get("telemetry/status") for summary in records(tmp_path, "summary")]

    def test_a_run_without_points_has_its_status(self, tmp_path: Path) -> None:
        deliver(tmp_path, [], "failed")
        assert exit_codes(tmp_path) == [1]
        assert open_sink(tmp_path)[1].last_seq is None

    @staticmethod
    def state(folder: Path) -> dict[str, int]:
        return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


class TestAlerts:
    @pytest.mark.parametrize(("level", "shown"), [("info", "INFO"), ("warning", "WARN"), ("error", "ERROR")])
    def test_an_alert_has_its_level_and_a_title_of_up_to_63_characters(
        self, tmp_path: Path, level: Any, shown: str
    ) -> None:
        title = "the loss is NaN " * 6
        deliver(tmp_path, [scalars(1), Alert(seq=2, time=STARTED, step=20, title=title, text="since 20", level=level)])
        (alert,) = records(tmp_path, "alert")
        assert (alert["title"], alert["level"]) == (title[:63], shown)
        assert alert["text"] == f"iteration 20: {title}\nsince 20"

    def test_a_lost_alert_is_sent_again(self, tmp_path: Path) -> None:
        batch = [*sample(1, 3), Alert(seq=4, time=STARTED, step=30, title="loss is NaN")]
        sink, _ = open_sink(tmp_path)
        sink.sink_write(batch)
        os.kill(*client_pids(), signal.SIGKILL)
        wait_for(lambda: not client_pids())
        with pytest.raises(SinkUnavailable):
            sink.sink_close("finished", "")
        deliver(tmp_path, batch)
        assert {alert["title"] for alert in records(tmp_path, "alert")} == {"loss is NaN"}
        assert seqs(tmp_path) == [1, 2, 3]

    def test_an_alert_that_was_the_last_record_of_a_run_is_not_sent_again(self, tmp_path: Path) -> None:
        batch = [*sample(1, 3), Alert(seq=4, time=STARTED, step=30, title="loss is NaN")]
        deliver(tmp_path, batch, "failed")
        before = transaction_logs(tmp_path)
        deliver(tmp_path, batch, "failed")
        assert transaction_logs(tmp_path) == before
        deliver(tmp_path, [*batch, Alert(seq=5, time=STARTED, step=40, title="again")], "failed")
        assert [alert["title"] for alert in records(tmp_path, "alert")] == ["loss is NaN", "again"]

    def test_all_alerts_with_the_same_title_are_sent(self, tmp_path: Path) -> None:
        deliver(tmp_path, [Alert(seq=seq, time=STARTED, step=seq, title="loss is NaN") for seq in (1, 2, 3)])
        assert len(records(tmp_path, "alert")) == 3
