"""False and missed alerts on a small sample of the labeled curves; ``benchmarks/alert_rates.py`` measures all."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.alert_curves import FAULTY, HEALTHY, RECORDED, Labeled, draw, healthy_long, recorded
from support.alert_rates import Rates, false_alerts, raised, table

ROOT = Path(__file__).parents[3]
SHORT = [kind for kind in (*HEALTHY, *FAULTY) if kind is not healthy_long]


@pytest.mark.parametrize("kind", SHORT, ids=lambda kind: kind.__name__)
def test_labeled_curves_raise_the_right_alerts_and_no_others(kind: Callable[[np.random.Generator], Labeled]) -> None:
    rates = Rates()
    for seed in range(2000, 2003):
        rates.add(draw(kind, seed))
    assert (rates.false.total(), rates.missed.total()) == (0, 0)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.json")))
def test_recorded_curves_raise_the_right_alerts_and_no_others(name: str) -> None:
    run = recorded(name)
    alerts = raised(run)
    assert false_alerts(run, alerts) == []
    assert {alert.cause for alert in alerts} >= {expected.causes[0] for expected in run.expected}


def test_the_published_rates_are_those_measured_and_none_has_become_worse() -> None:
    results = json.loads((ROOT / "benchmarks" / "alert_rates.json").read_text(encoding="utf-8"))
    assert table(results) in (ROOT / "docs" / "how-to" / "alerts.md").read_text(encoding="utf-8")
    assert results["now"].keys() == results["before"].keys()
    for kind, now in results["now"].items():
        before = results["before"][kind]
        assert now["expected"] == before["expected"]
        for count in ("false", "missed"):
            assert sum(now[count].values()) <= sum(before[count].values()), (kind, count)
