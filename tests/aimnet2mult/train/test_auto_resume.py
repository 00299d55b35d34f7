"""The run that ``--resume auto`` continues, in jobs, in job arrays, and outside of SLURM."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aimnet2mult.config.merge import read_yaml, write_yaml
from aimnet2mult.errors import ConfigError, RunBusy
from aimnet2mult.train import runner
from aimnet2mult.train.opening import check_plan
from aimnet2mult.train.plan import Plan, Request, make_plan
from aimnet2mult.train.runner import train
from aimnet2mult.train.trainer_wait import TrainerWait
from support import tiny_model
from support.telemetry_fakes import DEAD, FOREIGN, FakeClock
from support.tiny_runs import train_tiny
from telemetry import RunAlive, open_run, read_receipt
from telemetry.run_folder.heartbeat import Counts, Heartbeat, read_heartbeat, write_heartbeat
from telemetry.run_folder.job_identity import JobIdentity
from telemetry.run_folder.process_identity import ProcessIdentity, current_process

JOB = JobIdentity(job=17)
OTHER_JOB = JobIdentity(job=16)


def task(index: int, array: int = 100) -> JobIdentity:
    return JobIdentity(job=array, task=index)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs of two epochs: one has finished, one was preempted in the second."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_model.Stopping.calls_left = None
    train_tiny(folder, "trainer.epochs=2").rename(folder / "finished")
    tiny_model.Stopping.calls_left = 5
    train_tiny(folder, "trainer.epochs=2").rename(folder / "preempted")
    tiny_model.Stopping.calls_left = None
    return folder


class Shelf:
    """A folder of runs named ``tiny``, and requests for them."""

    def __init__(self, folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = folder / "runs"
        self.runs.mkdir()
        self._trained = trained
        self._monkeypatch = monkeypatch
        self.lines: list[str] = []
        self.clock = FakeClock()
        self.happens: Callable[[], None] = lambda: None
        """What happens at each second of a wait."""

    def add(
        self,
        kind: str,
        job: JobIdentity | None = None,
        *,
        seed: int = 0,
        trainer: ProcessIdentity = DEAD,
        **settings: object,
    ) -> Path:
        """Add a run that is newer than all others."""
        run = self.runs / f"tiny-20270101-{len(list(self.runs.iterdir())):06d}"
        shutil.copytree(self._trained / kind, run)
        self.beat(run, 3, job, trainer)
        config = read_yaml(run / "train.yaml")
        write_yaml(run / "train.yaml", {**config, "seed": seed, **settings})
        return run

    def beat(self, run: Path, beat: int, job: JobIdentity | None, trainer: ProcessIdentity) -> None:
        write_heartbeat(run, Heartbeat(trainer=trainer, attempt=1, beat=beat, counts=Counts(), job=job))

    def in_job(self, job: JobIdentity | None) -> None:
        """Let this process belong to a job."""
        array = job is not None and job.task is not None
        self._set("SLURM_JOB_ID", None if job is None else job.job + (0 if job.task is None else 1 + job.task))
        self._set("SLURM_ARRAY_JOB_ID", job.job if job is not None and array else None)
        self._set("SLURM_ARRAY_TASK_ID", job.task if job is not None else None)

    def _set(self, name: str, value: int | None) -> None:
        if value is None:
            self._monkeypatch.delenv(name, raising=False)
        else:
            self._monkeypatch.setenv(name, str(value))

    def request(self, *overrides: str, resume: str = "auto") -> Request:
        config = self._trained / "finished" / "train.yaml"
        return Request(
            configs=[config],
            overrides=[f"telemetry.dir={self.runs}", *overrides],
            model=self._trained / "model.yaml",
            resume=resume,
        )

    def plan(self, *overrides: str, job: JobIdentity | None = None, resume: str = "auto", limit: float = 600.0) -> Plan:
        """Plan a run as a process of a job."""
        self.in_job(job)
        wait = TrainerWait(self.lines.append, limit, clock=self.clock, sleep=self._sleep)
        return make_plan(self.request(*overrides, resume=resume), wait)

    def is_new(self, plan: Plan) -> bool:
        return plan.resume_step is None

    def _sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        self.happens()


@pytest.fixture
def shelf(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    tiny_model.Stopping.calls_left = None
    return Shelf(tmp_path, trained, monkeypatch)


# ---------------------------------------------------------------- the job's own run


def test_a_requeued_job_continues_its_own_run(shelf: Shelf) -> None:
    own = shelf.add("preempted", JOB)
    shelf.add("preempted", OTHER_JOB)
    shelf.add("finished", OTHER_JOB)
    assert shelf.plan(job=JOB).folder == own


def test_a_job_requeued_after_the_end_of_its_training_has_nothing_to_do(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shelf.add("finished", JOB)
    before = set(own.rglob("*"))
    shelf.in_job(JOB)
    assert train(shelf.request()) == 0
    assert f"{own}: nothing left to train after epoch 2" in capsys.readouterr().err
    assert (set(own.rglob("*")), list(shelf.runs.iterdir())) == (before, [own])


def test_a_job_with_several_trainings_of_one_name_continues_the_one_with_the_same_settings(shelf: Shelf) -> None:
    first = shelf.add("finished", JOB, seed=1)
    second = shelf.add("preempted", JOB, seed=2)
    assert shelf.plan("seed=1", job=JOB).folder == first
    assert shelf.plan("seed=1", job=JOB).nothing_left
    assert shelf.plan("seed=2", job=JOB).folder == second
    with pytest.raises(ConfigError, match=f"seed was 2 in {second} and cannot be 3"):
        shelf.plan("seed=3", job=JOB)


def test_a_run_of_an_earlier_version_with_the_same_settings_is_continued(shelf: Shelf) -> None:
    run = shelf.add("preempted")
    assert shelf.plan(job=JOB).folder == run


# ---------------------------------------------------------------- job arrays


def test_an_array_task_continues_its_own_run(shelf: Shelf) -> None:
    runs = [shelf.add("preempted", task(index), seed=index) for index in range(3)]
    for index, run in enumerate(runs):
        assert shelf.plan(f"seed={index}", job=task(index)).folder == run


def test_an_array_task_never_continues_the_run_of_another_task(shelf: Shelf) -> None:
    shelf.add("preempted", task(1))
    shelf.add("finished", task(2))
    shelf.add("preempted", task(3, array=50))
    assert shelf.is_new(shelf.plan(job=task(0)))


def test_an_array_task_continues_the_run_of_the_same_task_of_an_earlier_array(shelf: Shelf) -> None:
    run = shelf.add("preempted", task(4, array=50), seed=4)
    shelf.add("preempted", task(5, array=50), seed=5)
    assert shelf.plan("seed=4", job=task(4)).folder == run
    assert shelf.is_new(shelf.plan("seed=40", job=task(4)))


def test_an_array_task_continues_a_run_without_a_job_only_with_the_same_settings(shelf: Shelf) -> None:
    runs = [shelf.add("preempted", seed=index) for index in range(3)]
    assert shelf.plan("seed=1", job=task(1)).folder == runs[1]
    assert shelf.is_new(shelf.plan("seed=3", job=task(3)))
    finished = shelf.add("finished", seed=3)
    shelf.add("finished", seed=4)
    plan = shelf.plan("seed=3", job=task(3))
    assert (plan.folder, bool(plan.nothing_left)) == (finished, True)


def test_an_array_task_skips_a_run_whose_trainer_is_alive(shelf: Shelf) -> None:
    here = shelf.add("preempted", trainer=current_process())
    elsewhere = shelf.add("preempted", task(0, array=50), trainer=FOREIGN)
    shelf.happens = lambda: shelf.beat(elsewhere, len(shelf.clock.sleeps), task(0, array=50), FOREIGN)
    assert shelf.is_new(shelf.plan(job=task(0)))
    assert shelf.lines[0].startswith(f"watching the heartbeat of the trainer of {elsewhere}")
    assert shelf.lines[1:] == [f"skipping {run}: its trainer is alive" for run in (elsewhere, here)]


def test_an_array_task_reports_changed_settings_of_its_own_run(shelf: Shelf) -> None:
    shelf.add("preempted", task(4), seed=4)
    with pytest.raises(ConfigError, match=r"seed was 4 in .* and cannot be 0"):
        shelf.plan(job=task(4))


def test_another_process_that_resumes_the_run_first_keeps_it(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shelf.add("preempted")
    taken = []

    def check_late(plan: Plan, wait: TrainerWait) -> object:
        checked = check_plan(plan, wait)
        if not taken:
            shelf.in_job(task(1))
            taken.append(open_run(run, sinks=[], settings={"every": plan.settings.every}, resume_step=3))
            shelf.in_job(task(0))
        return checked

    monkeypatch.setattr(runner, "check_plan", check_late)
    shelf.in_job(task(0))
    assert train(shelf.request()) == 0
    assert "another process has just resumed the run" in capsys.readouterr().err
    taken[0].close()
    new = next(path for path in shelf.runs.iterdir() if path != run)
    assert read_receipt(new).status == "finished"
    heartbeat = read_heartbeat(new)
    assert heartbeat is not None
    assert heartbeat.job == task(0)


# ---------------------------------------------------------------- without a job of its own


def test_a_chain_of_jobs_continues_one_run(shelf: Shelf) -> None:
    run = shelf.add("preempted", OTHER_JOB)
    assert shelf.plan(job=JOB).folder == run
    assert shelf.plan().folder == run


def test_the_last_job_of_a_chain_has_nothing_to_do(shelf: Shelf) -> None:
    shelf.add("preempted", OTHER_JOB, seed=1)
    run = shelf.add("finished", OTHER_JOB)
    for job in (JOB, None):
        plan = shelf.plan(job=job)
        assert (plan.folder, bool(plan.nothing_left)) == (run, True)
    assert not shelf.lines


def test_more_epochs_extend_a_finished_run_unless_another_one_is_unfinished(shelf: Shelf) -> None:
    finished = shelf.add("finished")
    plan = shelf.plan("trainer.epochs=3")
    assert (plan.folder, plan.nothing_left, plan.resume_step) == (finished, "", 6)
    unfinished = shelf.add("preempted")
    shelf.add("finished")
    assert shelf.plan("trainer.epochs=3").folder == unfinished


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("seed=1", "seed was 0, is 1"),
        ("data.samplers.train.batch_size=2", "data.samplers.train.batch_size was 4, is 2"),
        ("trainer.epochs=1", "trainer.epochs is 1, but the run is already in epoch 2"),
    ],
)
def test_a_finished_run_with_other_settings_leads_to_a_new_one_with_the_reason(
    shelf: Shelf, override: str, reason: str
) -> None:
    run = shelf.add("finished")
    assert shelf.is_new(shelf.plan(override))
    (line,) = shelf.lines
    assert str(run) in line
    assert reason in line


def test_other_data_are_another_training_but_moved_data_are_not(shelf: Shelf, trained: Path, tmp_path: Path) -> None:
    other = shutil.copy(trained / "a.h5", tmp_path / "b.h5")
    shelf.add("finished")
    assert shelf.is_new(shelf.plan(f"data.fidelity_datasets.0={other}"))
    data = read_yaml(trained / "finished" / "train.yaml")["data"]
    moved = shelf.add("finished", data={**data, "fidelity_datasets": {0: str(tmp_path / "gone.h5")}})
    plan = shelf.plan(f"data.fidelity_datasets.0={other}")
    assert (plan.folder, bool(plan.nothing_left)) == (moved, True)


def test_an_unfinished_run_with_other_settings_is_an_error_unless_one_has_the_same(shelf: Shelf) -> None:
    run = shelf.add("preempted")
    newest = shelf.add("preempted", OTHER_JOB, seed=1)
    with pytest.raises(ConfigError, match=f"seed was 1 in {newest} and cannot be 2"):
        shelf.plan("seed=2", job=JOB)
    assert shelf.plan(job=JOB).folder == run


def test_a_training_with_other_settings_that_is_under_way_is_no_obstacle(shelf: Shelf) -> None:
    run = shelf.add("preempted", OTHER_JOB, seed=1, trainer=current_process())
    for job in (JOB, None):
        assert shelf.is_new(shelf.plan(job=job))
    assert shelf.lines[0] == (
        f"skipping a run whose trainer is alive: seed was 1 in {run} and cannot be 0 after a resume"
    )


# ---------------------------------------------------------------- waiting for the previous trainer


@pytest.mark.parametrize("resume", ["auto", "RUN"])
def test_a_run_is_continued_once_its_trainer_elsewhere_has_ended(shelf: Shelf, resume: str) -> None:
    run = shelf.add("preempted", JOB, trainer=FOREIGN)

    def live() -> None:
        seconds = len(shelf.clock.sleeps)
        if seconds <= 30:
            shelf.beat(run, seconds, JOB, FOREIGN)
        (run / "checkpoints").rename(run / "later") if seconds == 30 else None

    shelf.happens = live
    plan = shelf.plan(job=JOB, resume=str(run) if resume == "RUN" else resume)
    assert (plan.folder, len(shelf.clock.sleeps)) == (run, 90)
    assert plan.checkpoint is None, "planned again after the wait"


@pytest.mark.parametrize("resume", ["auto", "RUN"])
def test_a_trainer_elsewhere_that_stays_alive_ends_the_wait_after_ten_minutes(shelf: Shelf, resume: str) -> None:
    run = shelf.add("preempted", JOB, trainer=FOREIGN)
    shelf.happens = lambda: shelf.beat(run, len(shelf.clock.sleeps), JOB, FOREIGN)
    with pytest.raises(RunBusy, match="process 4711 on elsewhere"):
        shelf.plan(job=JOB, resume=str(run) if resume == "RUN" else resume)
    assert len(shelf.clock.sleeps) == 600
    assert len(shelf.lines) == 11


def test_a_job_waits_for_its_earlier_trainer_on_the_same_node(shelf: Shelf) -> None:
    run = shelf.add("preempted", JOB, trainer=current_process())
    shelf.happens = lambda: shelf.beat(run, 4, JOB, DEAD)
    assert shelf.plan(job=JOB).folder == run
    assert len(shelf.lines) == 1


def test_without_a_requeue_a_trainer_on_this_machine_is_an_error_at_once(shelf: Shelf) -> None:
    run = shelf.add("preempted", JOB, trainer=current_process())
    for job, resume in ((None, "auto"), (JOB, str(run))):
        with pytest.raises(RunAlive, match=f"the trainer of {run} is alive"):
            shelf.plan(job=job, resume=resume)
    assert not shelf.clock.sleeps


def test_mistakes_in_the_request_are_reported_before_any_wait(shelf: Shelf) -> None:
    run = shelf.add("preempted", JOB, trainer=FOREIGN)
    with pytest.raises(ConfigError, match="seed was 0"):
        shelf.plan("seed=1", resume=str(run))
    assert not shelf.clock.sleeps


def test_a_complete_run_needs_no_wait(shelf: Shelf) -> None:
    run = shelf.add("finished", JOB, trainer=FOREIGN)
    for resume in ("auto", str(run)):
        assert shelf.plan(job=JOB, resume=resume).nothing_left
    assert not shelf.clock.sleeps


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, (-15, 143)), (signal.SIGINT, (130,))])
def test_a_signal_ends_the_wait_at_once(shelf: Shelf, number: signal.Signals, codes: tuple[int, ...]) -> None:
    run = shelf.add("preempted", trainer=FOREIGN)
    main = "import sys; from aimnet2mult.cli import main; sys.argv[0] = 'aimnet2mult'; main()"
    command = [sys.executable, "-c", main, "train", "--resume", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"watching the heartbeat of the trainer of {run}")
        process.send_signal(number)
        assert process.wait(timeout=10) in codes, "a shell reports the default action of SIGTERM, -15, as 143"


def test_the_command_exits_with_75_while_the_trainer_is_alive(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    import click

    from aimnet2mult.cli.console import run as run_command

    run = shelf.add("preempted", trainer=FOREIGN)

    @click.command()
    def command() -> int:
        return train(shelf.request(resume=str(run)), wait_limit=0.0)

    with pytest.raises(SystemExit) as caught:
        run_command(command, "train", [])
    assert caught.value.code == os.EX_TEMPFAIL == 75
    assert "may still be alive; try again later" in capsys.readouterr().err


# ---------------------------------------------------------------- runs of other users


def test_runs_of_other_users_are_skipped(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared folder, a run of somebody else is neither an error nor resumed."""
    own = shelf.add("preempted")
    theirs = shelf.add("preempted")
    if os.geteuid():
        user = os.geteuid() + 1
        monkeypatch.setattr("aimnet2mult.train.auto_resume.owner_of_new_files", lambda _: user)
        assert shelf.is_new(shelf.plan())
        assert "skipping 2 runs 'tiny' of other users" in shelf.lines[0]
        return
    os.chown(theirs, 65534, -1)
    assert shelf.plan().folder == own
    assert shelf.lines == [f"skipping 1 run 'tiny' of other users in {shelf.runs}"]


def test_a_run_that_cannot_be_entered_is_skipped(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    own = shelf.add("preempted")
    private = shelf.add("preempted")
    stat = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{private}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    assert shelf.plan().folder == own
