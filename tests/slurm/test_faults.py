"""Nodes, daemons and trainings that fail hard: what was journaled is delivered, and a requeued job continues."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.mlflow_kit import IGNORE_NOLOAD
from support.slurm import cluster
from support.slurm.counts import compare, pending, train_points
from support.slurm.project import Project

pytestmark = [pytest.mark.slurm, IGNORE_NOLOAD]

ITERATIONS = 600
STARTED = 150
"""Points in the journal when the fault occurs."""


def start(project: Project, *options: str, iterations: int = ITERATIONS) -> cluster.Job:
    """Start a training on the first node, or its free one, and wait until it has progressed."""
    job = project.submit(*options, iterations=iterations)
    project.wait_for_points(STARTED)
    return job


def test_node_set_down(project: Project, figures: Callable[[object], None]) -> None:
    job = start(project)
    cluster.set_down(job.node)
    assert job.wait() == "COMPLETED", job.output
    assert job.restarts == 1
    counts = compare(project.run, ITERATIONS)
    assert counts.attempts == 2
    figures(counts)


def test_node_failure(project: Project, figures: Callable[[object], None]) -> None:
    job = start(project)
    cluster.kill_slurmd(job.node)
    job.kill_all()
    assert job.wait() == "COMPLETED", job.output
    assert job.restarts == 1
    counts = compare(project.run, ITERATIONS)
    assert counts.attempts == 2
    figures(counts)


def test_slurmd_killed_while_the_training_continues(project: Project, figures: Callable[[object], None]) -> None:
    iterations = 2500  # longer than the minute after which SLURM gives up a node
    job = start(project, iterations=iterations)
    cluster.kill_slurmd(job.node)
    # The requeued job waits for the first one, which trains to the end.
    assert job.wait() == "COMPLETED", job.output
    assert job.restarts >= 1
    assert "waiting for the trainer" in job.output
    assert project.status() == "finished"
    counts = compare(project.run, iterations)
    assert counts.attempts == 1
    figures(f"{counts}; {job.restarts} requeues")


def test_job_requeues_itself_until_the_earlier_trainer_has_ended(
    project: Project, figures: Callable[[object], None]
) -> None:
    iterations = 1500  # longer than the start of the second job
    earlier = start(project, "--no-requeue", iterations=iterations)
    project.wrap_trainer(f"exec {sys.executable} -m support.slurm.impatient")
    job = project.submit(iterations=iterations)
    cluster.eventually(lambda: "may still be alive; try again later" in job.output)
    earlier.cancel()
    assert job.wait() == "COMPLETED", job.output
    assert job.restarts >= 1
    assert earlier.wait() == "CANCELLED"
    counts = compare(project.run, iterations)
    assert counts.attempts == 2
    figures(f"{counts}; {job.restarts} requeues")


def test_out_of_memory(project: Project, figures: Callable[[object], None]) -> None:
    if cluster.setting("TaskPlugin") != "task/cgroup":
        pytest.skip("SLURM limits the memory of jobs only with the controllers of cgroup v1")
    job = start(project, "--no-requeue", "--mem=2500")
    use_up_memory_of(job)
    assert job.wait() == "FAILED", job.output
    assert "Out Of Memory" in job.output
    assert job.exit_code() == 1
    before = {name: number for name, number in pending(project.run).items() if number}
    last = train_points(project.run)[-1].step
    project.sync()
    assert set(pending(project.run).values()) == {0}
    figures(f"{compare(project.run, last)}; pending before `sync`: {before or 'none'}")


def use_up_memory_of(job: cluster.Job) -> None:
    """Allocate more memory than the job may use, in its control group, and preferably kill its trainer for it."""
    trainer = max(job.tasks(), key=resident_memory)
    Path(f"/proc/{trainer}/oom_score_adj").write_text("1000")
    groups = Path(f"/proc/{trainer}/cgroup").read_text().splitlines()
    (group,) = [line.partition(":memory:")[2] for line in groups if ":memory:" in line]
    script = f"echo $$ >/sys/fs/cgroup/memory{group}/cgroup.procs; exec head -c 4G /dev/zero | tail"
    subprocess.run(["bash", "-c", script], check=False, timeout=cluster.LONG, capture_output=True)  # noqa: S607


def resident_memory(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return int(pages[1])


def test_killed_job_is_delivered_afterwards(project: Project, figures: Callable[[object], None]) -> None:
    job = start(project)
    cluster.kill(job.tasks())
    assert job.wait() == "FAILED", job.output
    assert job.exit_code() == 137
    last = train_points(project.run)[-1].step
    before = {name: number for name, number in pending(project.run).items() if number}
    project.sync()
    figures(f"{compare(project.run, last)}; pending before `sync`: {before or 'none'}")


def test_failed_rank_does_not_requeue_the_job(project: Project) -> None:
    options = ("--nodes=2", "--ntasks-per-node=1")
    job = project.submit(*options, heading="Several nodes", iterations=ITERATIONS)
    project.wait_for_points(STARTED)
    ranks = [pid for pid in job.tasks() if b"SLURM_PROCID=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    cluster.kill(ranks)
    assert job.wait() == "FAILED", job.output
    assert (job.exit_code(), job.restarts) == (137, 0)
    assert project.status() == "failed"
    assert "lost contact with rank 1" in job.output


def test_ranks_that_cannot_meet_do_not_requeue_the_job(project: Project) -> None:
    project.environment["MASTER_ADDR"] = "no-such-host.invalid"
    job = project.submit("--nodes=2", "--ntasks-per-node=1", heading="Several nodes", iterations=ITERATIONS)
    cluster.eventually(lambda: "no-such-host.invalid does not resolve" in job.output)
    cluster.call("scancel", "--signal=TERM", job.number)
    assert job.wait() == "FAILED", job.output
    assert (job.exit_code(), job.restarts) == (1, 0)
    assert project.status() == "failed"
    assert "Traceback" not in job.output


def test_read_only_home_without_network(project: Project, figures: Callable[[object], None]) -> None:
    isolated = ["unshare", "--mount", "--net", "--"]
    if subprocess.run([*isolated, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not allow separate mount and network namespaces")
    home = project.folder / "home"
    home.mkdir()
    read_only = 'mount --bind "$HOME" "$HOME" && mount -o remount,ro,bind "$HOME" && exec "$0" "$@"'
    # SLURM gives each job the home directory of its user.
    project.wrap_trainer(f"export HOME={home}; exec {' '.join(isolated)} bash -c '{read_only}'")
    job = project.submit(iterations=200)
    assert job.wait() == "COMPLETED", job.output
    assert list(home.iterdir()) == []
    assert "Traceback" not in job.output
    figures(compare(project.run, 200))
