"""Opening a run: all checks precede any write, and a resume is compatible with the existing run."""

from __future__ import annotations

import math
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import telemetry
from support.telemetry_fakes import (
    FOREIGN,
    METRICS,
    Backend,
    FakeClock,
    HandMadeRun,
    MemorySink,
    beat,
    journal_lines,
    journal_steps,
    offer_sinks,
    run_record,
)
from telemetry import (
    JournalError,
    Metric,
    MetricBus,
    PluginError,
    RunAlive,
    RunExists,
    RunFolderError,
    RunNotFound,
    SettingError,
    Settings,
    SinkNotFound,
    SinkNotInstalled,
    UnitError,
    open_run,
    read_header,
    read_receipt,
    read_run,
)
from telemetry.journal.codec import encode
from telemetry.journal.newest_points import last_step
from telemetry.journal.reader import read_description
from telemetry.recording.open_run import start_run
from telemetry.recording.run_plan import plan_run
from telemetry.run_folder.trainer_liveness import TrainerLivenessProbe

QUIET: dict[str, Any] = {"metrics": METRICS, "sinks": [], "settings": Settings(every=1)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "a-run"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the sinks ``file`` and ``lacking`` as entry points."""
    offer_sinks(
        tmp_path / "site", file="support.telemetry_fakes:FileSink", lacking="support.telemetry_fakes:LackingSink"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")


def first_attempt(run: Path, *steps: int, close: bool = True, **more: object) -> MetricBus:
    bus = open_run(run, **QUIET | more)
    for step in steps:
        bus.publish("train", step, {"loss": 1.0})
    assert bus.flush()
    if close:
        bus.close("preempted", timeout=0)
    return bus


# Errors.


MEMORY = MemorySink(Backend())


class NoHooks:
    name = "none"


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        pytest.param(
            SinkNotFound, "no sink 'tensorbord'.* Did you mean 'tensorboard'", {"sinks": ["tensorbord"]}, id="sink"
        ),
        pytest.param(SinkNotInstalled, "needs the module 'no_such_module'", {"sinks": ["lacking"]}, id="extra"),
        pytest.param(
            SettingError,
            "no option 'bakend'.* Did you mean 'backend'",
            {"sinks": ["file"], "settings": Settings(options={"file": {"bakend": "/x"}})},
            id="option",
        ),
        pytest.param(
            SettingError,
            "level",
            {"sinks": ["file"], "settings": Settings(options={"file": {"backend": "/x", "level": "high"}})},
            id="type of an option",
        ),
        pytest.param(
            SettingError,
            "'memory' is listed twice",
            {"sinks": [MEMORY, MEMORY]},
            id="twice",
        ),
        pytest.param(PluginError, "does not implement sink_open", {"sinks": [NoHooks()]}, id="hooks"),
        pytest.param(
            UnitError, "'kcl/mol'", {"metrics": {"train/E": Metric(unit="kcl/mol", source_unit="eV")}}, id="unit"
        ),
        pytest.param(
            UnitError,
            "another dimension",
            {"metrics": {"train/E": Metric(unit="kg", source_unit="eV")}},
            id="dimension",
        ),
        pytest.param(SettingError, "has 306 characters", {"metrics": {"train/" + "x" * 300: Metric()}}, id="long name"),
        pytest.param(SettingError, "stream/metric", {"metrics": {"loss": Metric()}}, id="no stream"),
        pytest.param(SettingError, "stream/metric", {"metrics": {"train/": Metric()}}, id="no metric"),
        pytest.param(SettingError, "stream/metric", {"metrics": {"/loss": Metric()}}, id="empty stream"),
        pytest.param(
            SettingError,
            r"metrics is of type list.*\{'train/loss': Metric\(\)\}",
            {"metrics": ["train/loss"]},
            id="list",
        ),
        pytest.param(SettingError, "'eV'; expected a declaration", {"metrics": {"train/E": "eV"}}, id="no declaration"),
        pytest.param(
            SettingError,
            "'train/train/loss' names its stream twice; did you mean 'train/loss'",
            {"metrics": {"train/train/loss": Metric()}},
            id="stream twice",
        ),
        pytest.param(SettingError, "telemetry.evry.*did you mean", {"settings": {"evry": 1}}, id="settings"),
        pytest.param(SettingError, "sinks is of type MemorySink", {"sinks": MEMORY}, id="one sink"),
        pytest.param(SettingError, r"Settings\(options=…\)", {"sinks": {"file": {}}}, id="sinks with options"),
        pytest.param(SettingError, "params is of type list", {"params": [1]}, id="params"),
        *(
            pytest.param(
                SettingError, f"resume_step is {step!r}; expected .* integer", {"resume_step": step}, id=repr(step)
            )
            for step in (-1, True, "5", 1.5, math.nan, 1 << 62)
        ),
        pytest.param(SettingError, "cannot be written", {"params": {"x": ["y" * 1000] * 2000}}, id="parameters"),
        pytest.param(SettingError, "cannot be written", {"name": "\udcff"}, id="no text"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_rejected_arguments_leave_no_folder(
    run: Path, error: type[Exception], message: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        open_run(run, **QUIET | changes)
    assert not run.parent.exists()


def test_a_folder_that_cannot_be_created_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in its place")
    with pytest.raises(RunFolderError, match=r"cannot write to .* \(Not a directory\); choose another folder$"):
        open_run(tmp_path / "runs" / "a-run", **QUIET)


def test_a_folder_without_room_for_the_journal_is_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("telemetry.journal.writer.os.fdatasync", no_room)
    with pytest.raises(RunFolderError, match="No space left on device"):
        open_run(run, **QUIET)
    monkeypatch.undo()
    first_attempt(run, 1)
    assert journal_steps(run) == [1]


def test_a_folder_with_a_run_is_left_unchanged(run: Path) -> None:
    first_attempt(run, 1)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunExists, match=r"continue it \(resume=True\), or choose another folder, such as .*a-run-2$"):
        plan_run(run, **QUIET)
    for number in (2, 3):
        with open_run(run, **QUIET) as bus:
            assert bus.folder == run.with_name(f"a-run-{number}")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resume_continues_the_run_after_its_last_step_or_starts_one(run: Path) -> None:
    for steps in ((1, 2, 5), (6, 7)):
        with open_run(run, **QUIET, resume=True) as bus:
            for step in steps:
                bus.publish("train", step, {"loss": step})
    assert read_header(run).attempt == 2
    assert journal_steps(run) == [1, 2, 5, 6, 7]
    with open_run(run, **QUIET, resume=True, resume_step=5) as bus:
        bus.publish("train", 6, {"loss": 60})
    assert telemetry.read_run(run).curves["train/loss"].steps.tolist() == [1, 2, 5, 6]
    assert not run.with_name("a-run-2").exists()


def test_a_training_that_starts_again_without_resume_step_is_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for steps in ((4, 5), (1, 2)):
        with open_run(run, **QUIET, resume=True) as bus:
            for step in steps:
                bus.publish("train", step, {"loss": step})
    (message,) = [record.message for record in caplog.records]
    assert message.startswith("step 1 of train is before 5, the step after which the run resumes; pass the step of the")


def test_an_evaluation_after_training_does_not_hide_the_last_step(run: Path) -> None:
    with open_run(run, **QUIET) as bus:
        bus.publish("train", 9, {"loss": 1})
        bus.publish("test", 0, {"loss": 1}, final=True)
    assert last_step(run) == 9


def test_media_after_the_last_point_are_kept_by_a_resume(run: Path) -> None:
    with open_run(run, **QUIET) as bus:
        bus.publish("train", 9, {"loss": 1})
        bus.text("val/notes", 12, "x")
    with open_run(run, **QUIET, resume=True) as bus:
        bus.text("val/notes", 13, "y")
    assert [media.step for media in telemetry.read_run(run).media] == [12, 13]


def test_parameters_too_long_to_be_kept_do_not_prevent_a_resume(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        with open_run(run, **QUIET, resume=True, params={f"long{number}": "x" * 700_000}) as bus:
            bus.publish("train", number, {"loss": 1})
    assert list(read_header(run).params) == ["long2"]
    assert "too long to be kept" in caplog.text


def test_a_refused_resume_names_both_ways_out(run: Path) -> None:
    with open_run(run, **QUIET) as bus:
        bus.publish("train", 1, {"loss": 1})
        bus.flush()
        with pytest.raises(
            RunAlive, match=r"this process.*close it, bus.close\(\).*another folder, such as .*a-run-2$"
        ):
            open_run(run, **QUIET, resume=True)


def test_a_resume_removes_temporary_files_of_a_killed_trainer(run: Path) -> None:
    first_attempt(run, 1)
    (run / ".alive.json.4711.3.tmp").touch()
    open_run(run, **QUIET, resume_step=1).close(timeout=0)
    assert list(run.rglob(".*")) == []


@pytest.mark.parametrize("left", [b"", b'{"kind":"run","seq":0,"ti'], ids=["nothing", "a part of its first line"])
def test_a_run_whose_trainer_was_killed_before_its_first_line_can_be_started_again(run: Path, left: bytes) -> None:
    run.mkdir(parents=True)
    (run / "journal-0.jsonl").write_bytes(left)
    with pytest.raises(RunNotFound):
        open_run(run, **QUIET, resume_step=0)
    first_attempt(run, 1, 2)
    assert read_header(run).attempt == 1
    assert journal_steps(run) == [1, 2]
    assert (run / "journal-0.jsonl").read_bytes() == left
    with pytest.raises(RunExists):
        plan_run(run, **QUIET)


def test_a_run_that_gets_its_first_line_after_the_checks_is_left_alone(run: Path) -> None:
    run.mkdir(parents=True)
    (run / "journal-0.jsonl").touch()
    plan = plan_run(run, **QUIET)
    (run / "journal-0.jsonl").write_bytes(encode(run_record(run)))
    with pytest.raises(RunAlive, match="another process"):
        start_run(plan)


def test_a_folder_with_other_files_may_be_used(run: Path) -> None:
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "model.pt").write_bytes(b"weights")
    first_attempt(run, 1)
    assert journal_steps(run) == [1]
    assert (run / "checkpoints" / "model.pt").read_bytes() == b"weights"


# The run record.


def test_the_journal_begins_with_the_description_of_the_run(run: Path) -> None:
    metrics = {"train/E": Metric(unit="kcal/mol", source_unit="eV/particle", label="energy error")}
    bus = open_run(
        run,
        metrics=metrics,
        name="fine name",
        project="fine project",
        params={"lr": 1e-3, "data": {"files": ["a.h5"]}},
        versions={"torch": "2.13"},
        sinks=[],
        settings=Settings(every=7),
    )
    bus.close(timeout=0)
    header = read_header(run)
    assert (header.run_id, header.name, header.project, header.attempt, header.every) == (
        "a-run",
        "fine name",
        "fine project",
        1,
        7,
    )
    assert header.metrics == metrics
    assert header.params == {"lr": 1e-3, "data": {"files": ["a.h5"]}}
    assert header.versions == {"torch": "2.13"}
    assert header.pid == os.getpid()


def test_a_run_without_a_name_is_named_after_its_folder(run: Path) -> None:
    first_attempt(run)
    assert read_header(run).name == "a-run"


@pytest.mark.usefixtures("installed")
def test_credentials_are_not_written_to_the_journal(run: Path, tmp_path: Path) -> None:
    backend = tmp_path / "backend"
    params = {
        "telemetry": {"wandb": {"api_key": "s3cr3t"}},
        "mlflow_uri": "https://me:s3cr3t@host/x",
        "tokens": ["s3cr3t"],
        "lr": 0.1,
    }
    settings = Settings(sinks=("file",), options={"file": {"backend": str(backend), "password": "s3cr3t"}})
    bus = open_run(run, metrics=METRICS, params=params, settings=settings)
    bus.close(timeout=0)
    for path in run.rglob("journal-*"):
        assert b"s3cr3t" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_header(run).params["lr"] == 0.1
    assert read_header(run).sinks["file"] == {"backend": str(backend), "password": "***"}


def test_with_sinks_none_only_the_journal_is_written(run: Path) -> None:
    bus = open_run(run, metrics=METRICS, settings=Settings.parse({"sinks": "none", "every": 1}))
    bus.publish("train", 1, {"loss": 1.0})
    receipt = bus.close()
    assert journal_steps(run) == [1]
    assert receipt is not None
    assert receipt.sinks == []


def test_a_folder_that_the_group_cannot_enter_is_named(caplog: pytest.LogCaptureFixture) -> None:
    # Nobody else can enter the temporary folders of pytest.
    with tempfile.TemporaryDirectory() as above:
        runs = Path(above) / "runs"
        Path(above).chmod(0o711)
        open_run(runs / "a", sinks=[], settings={"mode": "group"}).close()
        assert "cannot enter" not in caplog.text
        runs.chmod(0o700)
        open_run(runs / "b", sinks=[], settings={"mode": "group"}).close()
        assert f"the group cannot enter {runs}, so it cannot read {runs / 'b'}; run: chmod g+rx {runs}" in caplog.text


# Resume.


def test_a_resume_is_a_new_attempt_in_a_segment_with_the_resumed_step(run: Path) -> None:
    first_attempt(run, 1, 2, 3, name="the first name", project="p")
    bus = open_run(run, **QUIET, name="another name", project="p", resume_step=2)
    bus.publish("train", 3, {"loss": 1.0})
    bus.close("finished", timeout=0)
    lines = journal_lines(run)
    heads = [line for line in lines if line["kind"] == "run"]
    assert [head["attempt"] for head in heads] == [1, 2]
    assert [head["run_id"] for head in heads] == ["a-run", "a-run"]
    assert [head["name"] for head in heads] == ["the first name", "the first name"]
    assert heads[0]["started"] == heads[1]["started"]
    (resumed,) = [line for line in lines if line["kind"] == "resumed"]
    assert (resumed["seq"], resumed["step"], resumed["attempt"]) == (1_000_000_001, 2, 2)
    assert journal_steps(run) == [1, 2, 3, 3]


def test_each_resume_increases_the_attempt_by_one(run: Path) -> None:
    first_attempt(run, 1)
    for attempt in (2, 3, 4):
        open_run(run, **QUIET, resume_step=1).close(timeout=0)
        assert read_header(run).attempt == attempt


def test_a_resumed_run_knows_whether_its_earlier_attempts_had_diverged(run: Path) -> None:
    watched = QUIET | {"metrics": {f"{stream}/loss": Metric(watch=True) for stream in ("train", "val")}}
    with open_run(run, **watched) as bus:
        for step in range(1, 101):
            for stream in ("train", "val"):
                bus.publish(stream, step, {"loss": 1.0 if step <= 60 else 30.0})
    for resume_step, last_healthy in ((100, 60), (90, 60), (50, 50)):
        with open_run(run, **watched, resume_step=resume_step) as bus:
            assert bus.last_healthy_step == last_healthy
    with open_run(run, **watched, resume_step=50) as bus:
        for step in range(51, 101):
            bus.publish("train", step, {"loss": 1.0})
    with open_run(run, **watched, resume_step=100) as bus:
        assert bus.last_healthy_step == 100, "superseded points do not count"


@pytest.mark.parametrize("late", [False, True], ids=["by a pattern", "by a later declaration"])
def test_a_metric_is_watched_again_after_each_resume(run: Path, *, late: bool) -> None:
    watch = Metric(watch=True)
    for attempt in range(3):
        with open_run(run, **QUIET | {"metrics": {"val/F": Metric()} if late else {"*/E": watch}}, resume=True) as bus:
            if late:
                bus.declare({"val/E": watch})
            bus.publish("val", 10 * attempt + 1, {"E": 1.0})
            bus.publish("val", 10 * attempt + 2, {"E": math.nan})
            bus.flush()
            assert bus.diverged is not None


def test_a_run_in_which_names_appear_without_end_remains_resumable(run: Path) -> None:
    for attempt in range(6):
        with open_run(run, sinks=[], settings=Settings(every=1), resume=True) as bus:
            bus.publish("train", attempt + 1, {f"{attempt} {number:0200}": 1.0 for number in range(1500)})
    # The names of the first attempt are still recorded.
    assert read_run(run).curves["train/" + f"0 {0:0200}"].steps.tolist() == [1]
    assert bus.counts().dropped["too many names"] > 0


def test_a_run_may_be_resumed_from_its_very_beginning(run: Path) -> None:
    first_attempt(run, 1)
    open_run(run, **QUIET, resume_step=0).close(timeout=0)
    assert [line["step"] for line in journal_lines(run) if line["kind"] == "resumed"] == [0]


def test_a_folder_without_a_run_cannot_be_resumed(run: Path) -> None:
    with pytest.raises(RunNotFound, match="no run in"):
        open_run(run, **QUIET, resume_step=1)
    assert not run.parent.exists()


def test_a_run_that_is_still_open_in_this_process_is_not_resumed(run: Path) -> None:
    bus = first_attempt(run, 1, close=False)
    with pytest.raises(RunAlive, match=f"process {os.getpid()}"):
        open_run(run, **QUIET, resume_step=1)
    bus.close(timeout=0)
    assert [line["kind"] for line in journal_lines(run)] == ["run", "scalars", "closed"]


def test_a_run_whose_trainer_is_alive_is_not_resumed(run: Path) -> None:
    code = f"""
import telemetry
bus = telemetry.open_run({str(run)!r}, metrics={{"train/loss": telemetry.Metric()}}, sinks=[],
                         settings=telemetry.Settings(every=1))
bus.publish("train", 1, {{"loss": 1.0}})
bus.flush()
print("open", flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"open\n"
        with pytest.raises(RunAlive, match=f"process {trainer.pid} on "):
            open_run(run, **QUIET, resume_step=1)
        trainer.kill()
        trainer.wait()
    open_run(run, **QUIET, resume_step=1).close(timeout=0)
    assert read_header(run).attempt == 2


def test_a_trainer_on_another_machine_is_watched_before_its_run_is_resumed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HandMadeRun(run, FOREIGN).points(1)
    clock = FakeClock()
    monkeypatch.setattr(
        "telemetry.recording.run_plan.TrainerLivenessProbe",
        lambda folder: _FakeProbe(folder, clock, lambda: beat(run, FOREIGN, beat=2)),
    )
    with pytest.raises(RunAlive, match="process 4711 on elsewhere"):
        open_run(run, **QUIET, resume_step=1)
    monkeypatch.setattr(
        "telemetry.recording.run_plan.TrainerLivenessProbe", lambda folder: _FakeProbe(folder, clock, lambda: None)
    )
    open_run(run, **QUIET, resume_step=1).close(timeout=0)
    assert read_header(run).attempt == 2
    assert sum(clock.sleeps) >= 60


class _FakeProbe(TrainerLivenessProbe):
    """A probe with a fake clock that performs an action at each sleep."""

    def __init__(self, folder: Path, clock: FakeClock, happens: Callable[[], None]) -> None:
        super().__init__(folder, clock=clock)
        self._fake = clock
        self._happens = happens

    def wait(self, sleep: Callable[[float], None] = lambda _: None) -> bool:
        def both(seconds: float) -> None:
            self._fake.sleep(seconds)
            self._happens()

        return super().wait(both)


def test_a_changed_unit_is_an_error_that_names_both(run: Path) -> None:
    metrics = {"train/loss": Metric(), "train/E": Metric(unit="kcal/mol", source_unit="eV/particle")}
    first_attempt(run, 1, metrics=metrics)
    changed = {"train/loss": Metric(), "train/E": Metric(unit="eV", source_unit="eV/particle")}
    with pytest.raises(JournalError, match=r"unit of train/E was kcal/mol .* cannot be eV after a resume"):
        open_run(run, **QUIET | {"metrics": changed}, resume_step=1)
    assert len(list(run.glob("journal-*"))) == 1


def test_a_changed_cadence_is_an_error_that_names_both(run: Path) -> None:
    first_attempt(run, 1)
    with pytest.raises(JournalError, match=r"telemetry.every was 1 .* cannot be 5 after a resume"):
        open_run(run, **QUIET | {"settings": Settings(every=5)}, resume_step=1)
    assert len(list(run.glob("journal-*"))) == 1


def test_a_rejected_resume_leaves_the_run_unchanged(run: Path) -> None:
    first_attempt(run, 1)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SinkNotFound):
        open_run(run, **QUIET | {"sinks": ["nonesuch"]}, resume_step=1)
    with pytest.raises(JournalError):
        open_run(run, **QUIET | {"settings": Settings(every=5)}, resume_step=1)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_resume_keeps_the_parameters_that_it_does_not_change(run: Path) -> None:
    with open_run(run, **QUIET, params={"lr": 0.1, "width": 8}) as bus:
        bus.params({"batches": 20})
    open_run(run, **QUIET, resume=True).close()
    assert read_description(run).params == {"lr": 0.1, "width": 8, "batches": 20}
    open_run(run, **QUIET, resume=True, params={"lr": 0.01}).close()
    assert read_description(run).params == {"lr": 0.01, "width": 8, "batches": 20}


def test_a_resume_may_add_metrics(run: Path) -> None:
    first_attempt(run, 1)
    more = METRICS | {"train/spin": Metric()}
    open_run(run, **QUIET | {"metrics": more}, resume_step=1).close(timeout=0)
    assert "train/spin" in read_header(run).metrics


@pytest.mark.parametrize("step", [np.int64(1), np.array(1), 1.0], ids=repr)
def test_the_resumed_step_may_be_of_another_number_type(run: Path, step: Any) -> None:
    first_attempt(run, 1)
    open_run(run, **QUIET, resume_step=step).close(timeout=0)
    assert [line["step"] for line in journal_lines(run) if line["kind"] == "resumed"] == [1]


@pytest.mark.parametrize("resumes", [False, True])
def test_a_run_that_could_not_be_opened_can_be_opened_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, resumes: bool
) -> None:
    request = QUIET | ({"resume_step": 1} if resumes else {})
    if resumes:
        first_attempt(run, 1)
    for name, error in (("_write_all", OSError(28, "No space left on device")), ("sync_folder", KeyboardInterrupt())):
        with monkeypatch.context() as patch:
            patch.setattr(f"telemetry.journal.writer.{name}", _raiser(error))
            with pytest.raises((RunFolderError, KeyboardInterrupt)):
                open_run(run, **request)
    bus = open_run(run, **request)
    bus.publish("train", 2, {"loss": 1.0})
    bus.close(timeout=0)
    assert journal_steps(run)[-1] == 2


def _raiser(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_point_at_the_resumed_step_that_is_already_recorded_is_not_recorded_again(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first_attempt(run, 1, 2, 3)
    for attempt in (2, 3):
        bus = open_run(run, **QUIET, resume_step=2)
        bus.publish("val", 2, {"loss": 0.25 * attempt})
        bus.publish("val", 3, {"loss": 1.0})
        bus.publish("train", 3, {"loss": 1.0})
        bus.close("preempted", timeout=0)
    assert bus.counts().dropped == {"already recorded": 1}
    assert (bus.counts().offered, bus.counts().journaled, bus.counts().lost) == (2, 2, 0)
    curves = read_run(run).curves
    assert {name: curve.steps.tolist() for name, curve in curves.items()} == {
        "train/loss": [1, 2, 3],
        "val/loss": [2, 3],
    }
    assert curves["val/loss"].values[0] == 0.5
    assert caplog.records == []


def test_a_divergence_found_by_a_repeated_validation_is_noticed_again(run: Path) -> None:
    request = QUIET | {"metrics": {"val/loss": Metric(watch=True), "train/loss": Metric()}}
    first_attempt(run, 1, metrics=request["metrics"])
    for _ in range(2):
        bus = open_run(run, **request, resume_step=1)
        bus.publish("val", 1, {"loss": math.nan})
        assert bus.flush()
        assert bus.diverged is not None
        bus.close(timeout=0)
    assert journal_steps(run, "val") == [1]


# Forms of arguments.


def test_sinks_may_be_comma_separated_and_settings_a_mapping(run: Path) -> None:
    bus = open_run(run, metrics=METRICS, sinks="none", settings={"every": 7, "sinks": "tensorboard"})
    bus.close(timeout=0)
    header = read_header(run)
    assert (header.every, header.sinks) == (7, {})
    with pytest.raises(SinkNotFound, match="tensorbord"):
        open_run(run, sinks="tensorbord")


def test_run_folders_may_be_texts_and_start_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    bus = open_run("~/runs/a", **QUIET)
    bus.publish("train", 1, {"loss": 1.0})
    bus.close(timeout=0)
    assert journal_steps(tmp_path / "runs" / "a") == [1]
    assert read_header("~/runs/a").run_id == "a"
    assert read_receipt("~/runs/a").journaled == 1
    assert read_run("~/runs/a").curves["train/loss"].steps.tolist() == [1]


@pytest.mark.parametrize("url", ["memory:/runs/a", "s3://bucket/a", "gs://bucket/a", "file:///tmp/a", "HTTP://x/y"])
def test_a_url_is_not_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    for open_it in (open_run, read_run, read_header, read_receipt):
        for path in (url, Path(url)):
            with pytest.raises(RunFolderError, match=", a URL; choose a local path"):
                open_it(path)
    assert list(tmp_path.iterdir()) == []


# Concurrency.


def _open_at_once(run: Path, how_many: int, **more: object) -> list[MetricBus | Exception]:
    barrier = threading.Barrier(how_many)
    out: list[MetricBus | Exception] = []

    def open_it() -> None:
        barrier.wait()
        try:
            out.append(open_run(run, **QUIET | more))
        except (RunExists, RunAlive) as error:
            out.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(how_many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


@pytest.mark.parametrize("turn", range(10))
def test_each_of_many_concurrent_new_runs_gets_its_own_folder(run: Path, turn: int) -> None:
    opened = _open_at_once(run, 4)
    buses = [bus for bus in opened if isinstance(bus, MetricBus)]
    for bus in buses:
        bus.close(timeout=0)
    assert len(buses) == 4
    assert len({bus.folder for bus in buses}) == 4
    assert run in {bus.folder for bus in buses}
    assert all(len(list(bus.folder.glob("journal-*"))) == 1 for bus in buses)


@pytest.mark.parametrize("turn", range(10))
def test_exactly_one_of_many_concurrent_resumes_succeeds(run: Path, turn: int) -> None:
    first_attempt(run, 1)
    opened = _open_at_once(run, 4, resume_step=1)
    buses = [bus for bus in opened if isinstance(bus, MetricBus)]
    for bus in buses:
        bus.close(timeout=0)
    assert len(opened) == 4
    assert len(buses) == 1
    assert len(list(run.glob("journal-*"))) == 2
