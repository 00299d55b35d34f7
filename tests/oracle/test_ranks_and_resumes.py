"""The published values of two ranks, and of a run that was killed, stopped and resumed, are recomputed in NumPy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.oracle import Call, read_batches
from support.oracle_attempts import ResumedRun, train_ranks
from support.oracle_runs import PLAN, train_config
from support.published_values import ABBREVIATIONS, LOSSES, Points, assemble, assert_agree, errors, expected_points
from support.rank_jobs import Launcher
from telemetry.journal.reader import JournalReader
from telemetry.sink_api import Scalars

pytestmark = pytest.mark.slow


def published(run: Path) -> Points:
    """Return all points of a run without their speed; fail if one occurs twice."""
    records = [r for r in JournalReader(run).read(1000, live=False) if isinstance(r, Scalars)]
    points = {
        (record.stream, record.step): {name: value for name, value in record.values.items() if name != "it_per_s"}
        for record in records
    }
    assert len(points) == len(records)
    return points


@pytest.mark.parametrize("loss", LOSSES)
def test_the_values_of_two_ranks_are_those_of_all_their_predictions(
    launcher: Launcher, data: Path, tmp_path: Path, loss: str
) -> None:
    job = train_ranks(launcher, train_config(tmp_path, data, loss), tmp_path / "job", ranks=2)
    assert job.wait() == [0, 0], job.stderr(0)
    batches = assemble([(0, read_batches(tmp_path / "job" / "captures"))])
    assert all(len(batch) == 2 for batch in batches.training.values())
    # A rank without a structure of its own evaluates one without labels.
    assert any(is_unlabeled(call) for call in batches.calls(training=False))
    (run,) = (tmp_path / "runs").iterdir()
    assert_agree(published(run), expected_points(batches, replace(PLAN, loss=loss)))


def is_unlabeled(call: Call) -> bool:
    return all(np.isnan(call.true[label]).all() for label in ABBREVIATIONS)


def test_each_attempt_began_in_the_middle_of_something(resumed: ResumedRun) -> None:
    trained = [sum(batch[0].training for batch in batches) for _, batches in resumed.attempts]
    assert trained == [11, 4, 1, 2, PLAN.batches_per_epoch]
    # The third attempt was stopped in the validation that the fourth one repeats.
    _, _, (_, interrupted), (_, repeating), _ = resumed.attempts
    assert not interrupted[-1][0].training
    assert not repeating[0][0].training


def test_the_values_of_a_resumed_run_are_those_of_the_attempts_that_count(resumed: ResumedRun) -> None:
    assert_agree(published(resumed.folder), resumed.expected)


def test_other_attempts_would_have_other_values(resumed: ResumedRun) -> None:
    killed = assemble(resumed.attempts[:1])
    for step in (8, 9):
        assert errors(killed.training[step], PLAN.units) != errors(resumed.batches.training[step], PLAN.units)
