"""Evaluation of the small run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.evaluate import evaluate
from aimnet2mult.evaluation.request import Request
from aimnet2mult.evaluation.results import Result
from support.sample_runs import TrainedRun


@pytest.fixture(scope="session")
def evaluated(trained: TrainedRun) -> Callable[..., Result]:
    """Return a function that evaluates the run as the command does, with options of the request."""

    def run(*files: Path, **options: Any) -> Result:
        warnings: list[str] = options.pop("warnings", [])
        request = Request(**{"model": trained.folder, "files": files, **options})
        return evaluate(request, Communicator(), warnings.append)[0]

    return run
