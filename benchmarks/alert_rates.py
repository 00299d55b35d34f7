"""Measure false and missed alerts on the labelled curves: ``python benchmarks/alert_rates.py [--seeds FIRST LAST]``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))

from support.alert_curves import FAULTY, HEALTHY, draw
from support.alert_rates import Rates


def main() -> None:
    first, last = (int(a) for a in sys.argv[1:3])
    total = Rates()
    for kind in (*HEALTHY, *FAULTY):
        rates = Rates()
        begin = time.perf_counter()
        for seed in range(first, last if kind.__name__ != "healthy_long" else first + max(1, (last - first) // 20)):
            rates.add(draw(kind, seed))
        d = {c: (len(x), sorted(x)[len(x) // 2] // 200 if x else None) for c, x in rates.delays.items()}
        print(
            f"{kind.__name__:22} runs {rates.runs:4} points {rates.points:7} false {dict(rates.false)} in runs {dict(rates.runs_with_false)} "
            f"missed {dict(rates.missed)} of {dict(rates.expected)} delay {d} {time.perf_counter() - begin:.1f} s",
            flush=True,
        )


main()
