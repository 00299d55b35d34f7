"""Thinned curves, checked against a search through all points."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from telemetry import Curve
from telemetry.display.thinning import thin


def new_curve(steps: list[int], values: list[float]) -> Curve:
    return Curve(
        name="val/loss",
        unit="1",
        label="",
        steps=np.array(steps, np.int64),
        times=np.array(steps, "datetime64[ms]"),
        values=np.array(values, np.float64),
        superseded=np.zeros(len(steps), np.bool_),
    )


def thinned(curve: Curve, *args: float) -> list[tuple[int, float]]:
    steps, values = thin(curve, *args)  # type: ignore[arg-type] # passed on
    assert (steps.dtype, values.dtype) == ("int64", "float64")
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def expected_places(steps: list[int], values: list[float], stretches: int) -> set[int]:
    """Return the places of the points to keep, found by going through the points one by one."""
    low, high = min(steps), max(steps)
    kept = {0, len(steps) - 1}
    for stretch in range(stretches):
        inside = [
            i
            for i, step in enumerate(steps)
            if min(int((step - low) * stretches / (high - low)), stretches - 1) == stretch
        ]
        finite = [i for i in inside if math.isfinite(values[i])]
        if finite:
            kept |= {min(finite, key=lambda i: values[i]), max(finite, key=lambda i: values[i])}
        kept |= set([i for i in inside if i not in finite][:1])
    return kept


@pytest.mark.parametrize("seed", range(30))
def test_the_points_are_those_of_a_search_through_all(seed: int) -> None:
    rng = random.Random(seed)
    stretches = rng.choice([1, 2, 8, 64])
    steps = sorted(rng.choices(range(rng.choice([50, 5000])), k=400))
    special = [math.nan, math.inf, -math.inf, 0.0, 1.0]
    values = [rng.choice(special) if rng.random() < 0.1 else rng.gauss(0, 1) for _ in steps]
    kept = expected_places(steps, values, stretches)
    assert str(thinned(new_curve(steps, values), stretches)) == str([(steps[i], values[i]) for i in sorted(kept)])


def test_a_single_spike_and_a_single_gap_survive() -> None:
    values = [1.0] * 100_000
    values[33_333], values[77_777] = 9.0, math.nan
    kept = dict(thinned(new_curve(list(range(100_000)), values)))
    assert len(kept) < 1100
    assert kept[33_333] == 9.0
    assert math.isnan(kept[77_777])
    assert {0, 99_999} <= set(kept)


def test_sparse_points_are_not_crowded_out_by_dense_ones() -> None:
    dense, sparse = list(range(100_000)), list(range(110_000, 1_100_000, 10_000))
    kept = {step for step, _ in thinned(new_curve(dense + sparse, [0.5] * 100_099))}
    assert kept >= set(sparse)


def test_few_points_are_all_kept() -> None:
    points = [(step, step / 7) for step in range(1000)]
    assert thinned(new_curve(*map(list, zip(*points, strict=True)))) == points


def test_a_part_of_the_curve_reaches_beyond_both_edges() -> None:
    curve = new_curve(list(range(0, 100, 10)), [float(n) for n in range(10)])
    assert thinned(curve, 500, 25, 50) == [(20, 2.0), (30, 3.0), (40, 4.0), (50, 5.0), (60, 6.0)]
    assert thinned(curve, 500, 31, 39) == [(30, 3.0), (40, 4.0)]
    assert thinned(curve, 500, 200, 300) == [(90, 9.0)]


def test_zooming_in_shows_more_points() -> None:
    curve = new_curve(list(range(10_000)), [math.sin(step) for step in range(10_000)])
    assert [step for step, _ in thinned(curve, 100, 5000, 5100)] == list(range(4999, 5102))


@pytest.mark.parametrize("values", [[math.nan] * 5000, [1e308, -1e308] * 2500])
def test_values_of_any_size_are_thinned(values: list[float]) -> None:
    kept = thinned(new_curve(list(range(5000)), values), 10)
    assert 10 <= len(kept) <= 32


def test_one_iteration_and_very_late_iterations_are_thinned() -> None:
    assert thinned(new_curve([7] * 50, [float(n) for n in range(50)]), 10) == [(7, 0.0), (7, 49.0)]
    late = [(1 << 62) - 5000 + n for n in range(5000)]
    assert len(thinned(new_curve(late, [0.5] * 5000), 10)) >= 2


def test_no_points_are_no_points() -> None:
    assert thinned(new_curve([], [])) == []
