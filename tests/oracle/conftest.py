"""Repeatable training on one thread, and the data of all runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.oracle_attempts import ResumedRun, train_in_attempts
from support.oracle_runs import write_files
from support.rank_jobs import Launcher


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the data files."""
    folder = tmp_path_factory.mktemp("data")
    write_files(folder)
    return folder


@pytest.fixture(scope="package")
def launcher() -> Iterator[Launcher]:
    with Launcher(double=False) as launcher:
        yield launcher


@pytest.fixture(scope="package")
def resumed(launcher: Launcher, data: Path, tmp_path_factory: pytest.TempPathFactory) -> ResumedRun:
    """Return a finished run that was killed and stopped, and delivered to three backends after the kill and at the end.

    It continues with other numbers of ranks, and each attempt masks other labels, so that its values differ.
    """
    return train_in_attempts(launcher, data, tmp_path_factory.mktemp("resumed"))
