"""The W&B sink's runs: what is in them, how they end, and what a later attempt adds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.wandb_kit import (
    config,
    cores,
    deliver,
    exit_codes,
    inspect,
    opened,
    records,
    rows,
    segment_files,
    seqs,
    wait_for,
)
from telemetry import Alert, Metric
from telemetry.sink_api import SinkRejected, SinkUnavailable
from telemetry.testing.points import STARTED, resumed, run_record, sample, scalars


class TestRows:
    def test_each_record_is_one_row_with_iteration_number_attempt_and_original_time(self, tmp_path: Path) -> None:
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

    def test_every_metric_is_drawn_over_the_iteration(self, tmp_path: Path) -> None:
        run = run_record(metrics={"train/loss": Metric(), "val/fid 1/E_rmse": Metric(unit="kcal/mol")})
        sink, _ = opened(tmp_path, run)
        sink.sink_write([scalars(1)])
        sink.sink_close("finished", "")
        metrics = {metric["name"]: metric for metric in records(tmp_path, "metric")}
        assert {name: metric.get("step_metric") for name, metric in metrics.items()} == {
            "trainer/iteration": None,
            "train/loss": "trainer/iteration",
            "val/fid 1/E_rmse": "trainer/iteration",
        }
        assert metrics["trainer/iteration"]["options"]["hidden"]

    def test_metrics_that_were_not_declared_are_drawn_over_it_too(self, tmp_path: Path) -> None:
        sink, _ = opened(tmp_path, run_record(metrics={}))
        sink.sink_write([scalars(1)])
        sink.sink_close("finished", "")
        (anything,) = [metric for metric in records(tmp_path, "metric") if "glob_name" in metric]
        assert (anything["glob_name"], anything["step_metric"]) == ("*", "trainer/iteration")

    def test_the_step_only_grows_also_over_attempts_that_go_back(self, tmp_path: Path) -> None:
        deliver(tmp_path, [scalars(seq, step) for seq, step in enumerate((10, 20, 30), 1)], "preempted")
        again = [resumed(10**9 + 1, 10), *(scalars(10**9 + step, step) for step in (20, 30, 40))]
        deliver(tmp_path, again[:2], "killed")
        deliver(tmp_path, again)
        found = [(r["_step"], r["trainer/iteration"], r["telemetry/attempt"]) for r in rows(tmp_path)]
        assert found == [(0, 10, 1), (1, 20, 1), (2, 30, 1), (3, 20, 2), (4, 30, 2), (5, 40, 2)]

    def test_an_instance_that_was_closed_can_go_on(self, tmp_path: Path) -> None:
        sink = deliver(tmp_path, [scalars(1), resumed(2, 0), scalars(3)])
        sink.sink_write([scalars(4)])
        sink.sink_close("finished", "")
        assert [(r["telemetry/seq"], r["_step"], r["telemetry/attempt"]) for r in rows(tmp_path)] == [
            (1, 0, 1),
            (3, 1, 2),
            (4, 2, 2),
        ]

    @pytest.mark.parametrize("name", ["trainer/iteration", "telemetry/seq", "telemetry/attempt"])
    def test_a_metric_with_a_name_of_the_sinks_own_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(SinkRejected, match=f"'{name}' of its own"):
            opened(tmp_path, run_record(metrics={name: Metric()}))

    def test_twenty_thousand_rows_are_delivered_and_found_again_in_seconds(self, tmp_path: Path) -> None:
        given = [scalars(seq, loss=1 / seq, E_rmse=1.0, F_rmse=2.0, q_rmse=3.0) for seq in range(1, 20_001)]
        started = os.times().elapsed
        sink, _ = opened(tmp_path)
        for first in range(0, len(given), 1000):
            sink.sink_write(given[first : first + 1000])
        sink.sink_close("finished", "")
        delivered = os.times().elapsed
        assert delivered - started < 30
        assert opened(tmp_path)[1].last_seq == 20_000
        assert os.times().elapsed - delivered < 10


class TestRun:
    def test_the_configuration_is_the_parameters_and_what_the_metrics_are(self, tmp_path: Path) -> None:
        metrics = {"train/E_rmse": Metric(unit="kcal/mol", label="RMSE of energy"), "train/loss": Metric()}
        run = run_record(
            metrics=metrics, params={"seed": 7, "optimizer": {"lr": 0.001}, "data": [1, 2]}, versions={"torch": "2.10"}
        )
        sink, _ = opened(tmp_path, run)
        sink.sink_close("finished", "")
        found = config(tmp_path)
        assert (found["seed"], found["optimizer"], found["data"]) == (7, {"lr": 0.001}, [1, 2])
        assert found["telemetry/units"] == {"train/E_rmse": "kcal/mol"}
        assert found["telemetry/labels"] == {"train/E_rmse": "RMSE of energy"}
        about = found["telemetry/run"]
        assert (about["id"], about["every"], about["attempt"]) == ("water", 10, 1)
        assert about["versions"] == {"torch": "2.10"}

    def test_name_project_group_tags_and_notes_are_what_the_options_say(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"name": "n", "project": "p", "entity": "e", "group": "g", "notes": "two\nlines"}
        deliver(tmp_path, [], tags=["a", "b c"], **options)
        (run,) = records(tmp_path, "run")
        assert (run["display_name"], run["project"], run["entity"], run["run_group"]) == ("n", "p", "e", "g")
        assert (run["notes"], run["tags"]) == ("two\nlines", ["a", "b c"])

    def test_name_and_project_are_the_runs_by_default_and_never_the_folders(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        for number, (project, shown) in enumerate([("water-models", "water-models"), (None, "uncategorized")]):
            folder = tmp_path / str(number)
            sink, _ = opened(folder, run_record(name="water, long", project=project))
            sink.sink_close("finished", "")
            (run,) = records(folder, "run")
            assert (run["display_name"], run["project"]) == ("water, long", shown)

    def test_what_the_environment_says_counts_where_no_option_does(self, tmp_path: Path, monkeypatch) -> None:
        for name, value in (("PROJECT", "p"), ("RUN_GROUP", "g"), ("TAGS", "a,b"), ("RUN_ID", "x"), ("RESUME", "must")):
            monkeypatch.setenv(f"WANDB_{name}", value)
        deliver(tmp_path / "run", [scalars(1)])
        (run,) = records(tmp_path / "run", "run")
        assert (run["project"], run["run_group"], run["tags"]) == ("p", "g", ["a", "b"])
        assert run["run_id"] != "x"
        assert seqs(tmp_path / "run") == [1]

    def test_system_metrics_are_those_of_a_trainer_that_lives_here(self, tmp_path: Path) -> None:
        with subprocess.Popen(["/bin/sleep", "60"]) as trainer:
            pids = {"lives": trainer.pid, "elsewhere": trainer.pid, "dead": 0}
            hosts = {"elsewhere": "another-host"}
            try:
                for what, pid in pids.items():
                    folder = tmp_path / what
                    sink, _ = opened(folder, run_record(pid=pid, host=hosts.get(what, socket.gethostname())))
                    sink._opened()
                    settings = sink._run.settings
                    sink.sink_close("finished", "")
                    measured = what == "lives"
                    assert settings.x_stats_pid == pid
                    assert settings.x_disable_stats is not measured
                    assert settings.x_disable_meta is not measured
                    assert bool(records(folder, "environment")) is measured
            finally:
                trainer.kill()

    def test_nothing_that_is_printed_or_run_is_taken(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        sink, _ = opened(tmp_path)
        sink.sink_write(sample(1, 3))
        print("a secret of the console")  # noqa: T201 - what is printed is what is tested
        sink.sink_close("finished", "")
        assert capfd.readouterr() == ("a secret of the console\n", "")
        held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"a secret of the console" not in held
        assert not list(tmp_path.rglob("requirements.txt"))
        assert not list(tmp_path.rglob("*.patch"))


class TestEnds:
    @pytest.mark.parametrize(("status", "code"), [("finished", 0), ("failed", 1), ("preempted", 143), ("killed", 137)])
    def test_each_end_is_wandbs(self, tmp_path: Path, status: str, code: int) -> None:
        deliver(tmp_path, sample(1, 3), status, "for a reason")
        assert exit_codes(tmp_path) == [code]
        kinds = [record["type"] for record in inspect(segment_files(tmp_path)[0])]
        assert ("preempting" in kinds) is (status == "preempted")
        said = {"telemetry/status": status, "telemetry/reason": "for a reason", "telemetry/alert": 0}
        assert said in [summary["update"] for summary in records(tmp_path, "summary")]

    def test_closing_again_writes_nothing_from_whatever_instance_or_process(self, tmp_path: Path) -> None:
        sink = deliver(tmp_path, sample(1, 3), "failed")
        before = self.state(tmp_path)
        sink.sink_close("failed", "")
        again, found = opened(tmp_path)
        again.sink_close("failed", "")
        assert found.last_seq == 3
        script = f"""
import pathlib, sys
from support.wandb_kit import opened
sink, found = opened(pathlib.Path({str(tmp_path)!r}))
sink.sink_close("failed", "")
assert found.last_seq == 3
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
        assert self.state(tmp_path) == before

    def test_another_end_without_a_new_point_is_written(self, tmp_path: Path) -> None:
        deliver(tmp_path, sample(1, 3), "killed")
        deliver(tmp_path, sample(1, 3), "finished")
        assert exit_codes(tmp_path) == [137, 0]
        assert seqs(tmp_path) == [1, 2, 3]

    def test_an_end_that_wandb_made_by_itself_is_none(self, tmp_path: Path) -> None:
        script = f"""
import pathlib, sys
from support.wandb_kit import opened
from telemetry.testing.points import sample
opened(pathlib.Path({str(tmp_path)!r}))[0].sink_write(sample(1, 3))
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
        assert seqs(tmp_path) == [1, 2, 3]
        deliver(tmp_path, sample(1, 3), "finished")
        assert "finished" in [summary["update"].get("telemetry/status") for summary in records(tmp_path, "summary")]

    def test_a_run_without_a_point_is_there_and_has_its_end(self, tmp_path: Path) -> None:
        deliver(tmp_path, [], "failed")
        assert exit_codes(tmp_path) == [1]
        assert opened(tmp_path)[1].last_seq is None

    @staticmethod
    def state(folder: Path) -> dict[str, int]:
        return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


class TestAlerts:
    @pytest.mark.parametrize(("level", "shown"), [("info", "INFO"), ("warning", "WARN"), ("error", "ERROR")])
    def test_an_alert_is_wandbs_with_its_level_and_a_title_of_63_signs(
        self, tmp_path: Path, level: Any, shown: str
    ) -> None:
        title = "the loss is NaN " * 6
        deliver(tmp_path, [scalars(1), Alert(seq=2, time=STARTED, step=20, title=title, text="since 20", level=level)])
        (alert,) = records(tmp_path, "alert")
        assert (alert["title"], alert["level"]) == (title[:63], shown)
        assert alert["text"] == f"iteration 20: {title}\nsince 20"

    def test_an_alert_that_was_lost_comes_again(self, tmp_path: Path) -> None:
        given = [*sample(1, 3), Alert(seq=4, time=STARTED, step=30, title="loss is NaN")]
        sink, _ = opened(tmp_path)
        sink.sink_write(given)
        os.kill(*cores(), signal.SIGKILL)
        wait_for(lambda: not cores())
        with pytest.raises(SinkUnavailable):
            sink.sink_close("finished", "")
        deliver(tmp_path, given)
        assert {alert["title"] for alert in records(tmp_path, "alert")} == {"loss is NaN"}
        assert seqs(tmp_path) == [1, 2, 3]

    def test_an_alert_that_was_the_last_record_of_a_run_does_not_come_again(self, tmp_path: Path) -> None:
        given = [*sample(1, 3), Alert(seq=4, time=STARTED, step=30, title="loss is NaN")]
        deliver(tmp_path, given, "failed")
        before = segment_files(tmp_path)
        deliver(tmp_path, given, "failed")
        assert segment_files(tmp_path) == before
        deliver(tmp_path, [*given, Alert(seq=5, time=STARTED, step=40, title="again")], "failed")
        assert [alert["title"] for alert in records(tmp_path, "alert")] == ["loss is NaN", "again"]

    def test_alerts_of_one_title_all_come(self, tmp_path: Path) -> None:
        deliver(tmp_path, [Alert(seq=seq, time=STARTED, step=seq, title="loss is NaN") for seq in (1, 2, 3)])
        assert len(records(tmp_path, "alert")) == 3
