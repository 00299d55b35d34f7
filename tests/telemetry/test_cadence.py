"""Which iterations are due."""

from __future__ import annotations

import pytest

from telemetry import NullBus, SettingError, TelemetryError
from telemetry.cadence import Cadence


def test_periodic_streams_are_due_at_exactly_every_nth_iteration() -> None:
    cadence = Cadence(200)
    due = [step for step in range(1, 1001) if cadence.due("train", step)]
    assert due == [200, 400, 600, 800, 1000]
    assert due == [step for step in range(1, 1001) if cadence.due("train_window", step)]


def test_a_resumed_run_is_due_at_the_same_iterations() -> None:
    before, after = Cadence(200), Cadence(200)
    whole = [step for step in range(1, 2001) if before.due("train", step)]
    parts = [step for step in range(1, 731) if before.due("train", step)]
    parts += [step for step in range(731, 2001) if after.due("train", step)]
    assert parts == whole


def test_due_has_no_side_effects() -> None:
    cadence = Cadence(3)
    first = [cadence.due("train", step) for step in (3, 4, 3, 6, 5, 3)]
    assert first == [True, False, True, True, False, True]
    assert first == [cadence.due("train", step) for step in (3, 4, 3, 6, 5, 3)]


def test_event_driven_streams_are_always_due() -> None:
    cadence = Cadence(200)
    assert all(cadence.due(stream, step) for stream in ("val", "train_epoch") for step in (1, 7, 199, 200))
    assert not cadence.due("validation", 7)
    assert Cadence(200, events=["weekly"]).due("weekly", 7)
    assert not Cadence(200, events=["weekly"]).due("val", 7)


def test_with_every_1_every_iteration_is_due() -> None:
    assert all(Cadence(1).due("train", step) for step in range(1, 50))


def test_all_ranks_agree_on_what_is_due() -> None:
    bus, cadence = NullBus(every=7), Cadence(7)
    streams = ("train", "train_window", "train_epoch", "val")
    assert all(bus.due(s, step) == cadence.due(s, step) for s in streams for step in range(1, 50))


@pytest.mark.parametrize("every", [0, -1, -200])
def test_fewer_than_one_iteration_between_points_is_rejected(every: int) -> None:
    with pytest.raises(
        SettingError, match=f"telemetry.every is {every}; it must be a number of iterations, at least 1"
    ) as e:
        Cadence(every)
    assert isinstance(e.value, TelemetryError)
    assert isinstance(e.value, ValueError)
