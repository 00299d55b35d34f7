"""Trainings on one node and on several."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.mlflow_kit import IGNORE_NOLOAD
from support.slurm.counts import compare, pending, train_points
from support.slurm.project import Project

pytestmark = [pytest.mark.slurm, IGNORE_NOLOAD]

ITERATIONS = 200


def curve(project: Project) -> dict[int, dict[str, float]]:
    """Return the values of each point, without the speed."""
    return {
        point.step: {name: value for name, value in point.values.items() if name != "it_per_s"}
        for point in train_points(project.run)
    }


def test_one_node(project: Project, figures: Callable[[object], None]) -> None:
    job = project.submit(iterations=ITERATIONS)
    assert job.wait() == "COMPLETED", job.output
    assert project.status() == "finished"
    assert set(pending(project.run).values()) == {0}
    figures(compare(project.run, ITERATIONS))


def test_two_ranks_on_two_nodes_have_the_curves_of_two_ranks_on_one(
    project: Project, another: Project, figures: Callable[[object], None]
) -> None:
    jobs = [
        each.submit(*options, heading="Several nodes", iterations=ITERATIONS)
        for each, options in (
            (project, ("--nodes=2", "--ntasks-per-node=1")),
            (another, ("--nodes=1", "--ntasks-per-node=2")),
        )
    ]
    for job in jobs:
        assert job.wait() == "COMPLETED", job.output
        assert "2 ranks share each batch" in job.output
    figures(f"{compare(project.run, ITERATIONS)}; on one node: {compare(another.run, ITERATIONS)}")
    assert curve(project) == curve(another)
