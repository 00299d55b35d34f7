"""Checking a point for anomalies, which the journal thread does for each record."""

from itertools import cycle
from typing import Any

import numpy as np
import pytest

from telemetry.alerts.detector import AnomalyDetector
from telemetry.alerts.settings import AlertSettings
from telemetry.metrics import Metric
from telemetry.records import Scalars

NAMES = ("loss", *(f"part{number}/E_rmse" for number in range(59)))
POINTS = 200


@pytest.mark.parametrize("rise", [1.0, 6.0], ids=["healthy", "all errors have risen"])
@pytest.mark.benchmark(group="alerts")
def test_check_a_point_of_60_watched_metrics(benchmark: Any, rise: float) -> None:
    chance = np.random.default_rng(0)
    detector = AnomalyDetector({f"window/{name}": Metric(watch=True) for name in NAMES}, AlertSettings())

    def point(step: int, factor: float) -> Scalars:
        values = {name: chance.lognormal(0, 0.1) * (1 if name == "loss" else factor) for name in NAMES}
        return Scalars(seq=step, time=step, stream="window", step=step, values=values)

    for step in range(POINTS):
        detector.observe(point(step, 1.0))
    later = [point(step, rise) for step in range(POINTS, 2 * POINTS)]
    for record in later:
        detector.observe(record)
    records = cycle(later)
    benchmark(lambda: detector.observe(next(records)))
