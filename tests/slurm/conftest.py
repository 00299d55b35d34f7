"""Trainings on a SLURM cluster, which `make test-slurm` starts."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.mlflow_kit import shared_template
from support.slurm import cluster
from support.slurm.project import Project


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> None:
    """Require a cluster of the tests, because they cancel jobs and set nodes down."""
    assert "SLURM_CONF" in os.environ, "run the tests with: make test-slurm"
    assert cluster.setting("ClusterName") == "lab", "the tests run only on the cluster that tests/slurm/lab.sh starts"


@pytest.fixture
def new_project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Project]]:
    """Return a function that creates projects; afterwards, end their jobs and restore the nodes."""
    projects: list[Project] = []

    def make(name: str) -> Project:
        (tmp_path / name).mkdir()
        projects.append(Project(tmp_path / name, shared_template(request.config)))
        return projects[-1]

    yield make
    cluster.end([job for project in projects for job in project.jobs])
    for node in cluster.nodes():
        cluster.restore(node)


@pytest.fixture
def project(new_project: Callable[[str], Project]) -> Project:
    """Return a new project."""
    return new_project("project")


@pytest.fixture
def another(new_project: Callable[[str], Project]) -> Project:
    """Return a second project."""
    return new_project("another")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Return the address of a server that accepts connections but never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
