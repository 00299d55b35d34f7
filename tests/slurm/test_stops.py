"""Trainings that SLURM stops: each continues on the same curves, and the output file has a summary of each attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.mlflow_kit import IGNORE_NOLOAD
from support.slurm import cluster
from support.slurm.counts import Counts, compare
from support.slurm.project import Project
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Closed

pytestmark = [pytest.mark.slurm, IGNORE_NOLOAD]

SHORT = 600
"""Iterations of a training that is stopped once; it lasts at least 12 s."""
ONE_LIMIT = 2000
"""Iterations that last at least 40 s, when the signal arrives at the latest if the limit is one minute."""
STARTED = 150
"""Points in the journal when the training is stopped."""
SUMMARY = "stopped by SIG"
"""In the last line of an attempt that was stopped."""


def start(project: Project, *options: str) -> cluster.Job:
    """Start a training on the first node and wait until it has progressed."""
    job = project.submit(f"--nodelist={cluster.nodes()[0]}", *options, iterations=SHORT)
    project.wait_for_points(STARTED)
    return job


def finished_after(job: cluster.Job, project: Project, iterations: int = SHORT) -> Counts:
    """Wait until the training has finished and return the numbers of points, among which there is no gap."""
    assert job.wait() == "COMPLETED", job.output
    assert project.status() == "finished"
    return compare(project.run, iterations)


@pytest.mark.parametrize(
    ("heading", "name", "requeues"), [("One node", "TERM", 2), ("One node", "USR1", 1), ("Signals", "B:USR1", 1)]
)
def test_time_limit(
    heading: str, name: str, requeues: int, project: Project, figures: Callable[[object], None]
) -> None:
    iterations = requeues * ONE_LIMIT
    job = project.submit("--time=1", f"--signal={name}@20", heading=heading, iterations=iterations)
    job.wait_for_restart(requeues)
    # On a slow machine, the training would exceed many more limits.
    job.extend_time_limit()
    counts = finished_after(job, project, iterations)
    assert counts.attempts == job.restarts + 1
    assert job.output.count(SUMMARY) == job.restarts
    figures(counts)


def test_time_limit_without_a_signal(project: Project, figures: Callable[[object], None]) -> None:
    # SIGURG has no effect. Without this option, that of the script would apply.
    job = project.submit("--time=1", "--signal=URG@1", iterations=2 * ONE_LIMIT)
    job.wait_for_restart(1)
    job.extend_time_limit()
    counts = finished_after(job, project, 2 * ONE_LIMIT)
    assert counts.attempts == job.restarts + 1
    assert job.output.count("stopped by trainer.time_limit") == job.restarts
    figures(counts)


def test_scancel(project: Project, figures: Callable[[object], None]) -> None:
    job = start(project)
    job.cancel()
    assert job.wait() == "CANCELLED"
    assert project.status() == "preempted"
    assert SUMMARY in job.output
    counts = finished_after(project.submit(iterations=SHORT), project)
    assert (job.state, job.restarts) == ("CANCELLED", 0), "a canceled job is not requeued"
    assert counts.attempts == 2
    figures(counts)


def test_requeue(project: Project, figures: Callable[[object], None]) -> None:
    job = start(project)
    job.requeue()
    counts = finished_after(job, project)
    assert (job.restarts, counts.attempts) == (1, 2)
    assert job.output.count(SUMMARY) == 1
    figures(counts)


def test_signal_to_the_tasks(project: Project, figures: Callable[[object], None]) -> None:
    job = start(project)
    cluster.call("scancel", "--signal=USR2", job.number)
    counts = finished_after(job, project)
    assert (job.restarts, counts.attempts) == (1, 2)
    assert job.output.count("stopped by SIGUSR2") == 1
    figures(counts)


def test_preemption(project: Project, figures: Callable[[object], None]) -> None:
    job = start(project)
    urgent = project.folder / "urgent.sh"
    urgent.write_text("#!/bin/bash\n")
    options = (f"--nodelist={cluster.nodes()[0]}", "--exclusive", "--mem=0", "--partition=high")
    project.jobs.append(cluster.submit(urgent, *options, environment=project.environment))
    assert project.jobs[-1].wait() == "COMPLETED"
    counts = finished_after(job, project)
    assert (job.restarts, counts.attempts) == (1, 2)
    assert job.output.count(SUMMARY) == 1
    figures(counts)


def test_a_stop_of_two_ranks(project: Project, figures: Callable[[object], None]) -> None:
    options = ("--nodes=2", "--ntasks-per-node=1")
    job = project.submit(*options, heading="Several nodes", iterations=SHORT)
    project.wait_for_points(STARTED)
    job.requeue()
    counts = finished_after(job, project)
    assert (job.restarts, counts.attempts) == (1, 2)
    assert job.output.count(SUMMARY) == 1
    figures(counts)


def test_requeue_of_a_finished_training_that_waits_for_a_sink(
    project: Project, silent_server: str, figures: Callable[[object], None]
) -> None:
    mlflow = {"tracking_uri": silent_server}
    job = project.submit(iterations=100, mlflow=mlflow)
    cluster.eventually(lambda: any(is_closed(run) for run in project.runs()))
    job.requeue()
    assert job.wait() == "COMPLETED", job.output
    assert job.restarts == 1
    assert len(project.runs()) == 1, "it is not trained again"
    assert project.status() == "finished"
    counts = compare(project.run, 100, mlflow=False)
    assert counts.attempts == 1
    figures(counts)


def is_closed(run: Path) -> bool:
    return any(isinstance(record, Closed) for record in JournalReader(run).read(10_000, live=True))


def test_job_array_with_one_name_of_all_runs(project: Project, figures: Callable[[object], None]) -> None:
    tasks = 3
    array = project.submit(f"--array=0-{tasks - 1}", "--mem=1500", heading="Job arrays", iterations=SHORT)
    cluster.eventually(lambda: len(project.runs()) == tasks)
    project.wait_for_points(STARTED)
    jobs = [
        cluster.Job(f"{array.number}_{task}", project.folder / f"slurm-{array.number}_{task}.out")
        for task in range(tasks)
    ]
    jobs[0].requeue()
    # The last task, whose job ID is that of the array, requeues itself.
    cluster.call("scancel", "--signal=TERM", jobs[-1].number)
    for job in jobs:
        assert job.wait() == "COMPLETED", job.output
    assert [job.restarts for job in jobs] == [1, 0, 1]
    runs = project.runs()
    assert len(runs) == tasks, "each task has resumed its own run"
    counts = [compare(run, SHORT) for run in runs]
    assert sorted(each.attempts for each in counts) == [1, 2, 2]
    figures("; ".join(map(str, counts)))
