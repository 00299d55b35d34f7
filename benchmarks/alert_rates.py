"""Count false and missed alerts on the labeled curves, and write them into docs/how-to/alerts.md.

``python benchmarks/alert_rates.py`` measures the current rules, in a few minutes; ``… before`` stores the numbers as
those of an earlier version, to be found on the path of Python; ``… page`` only writes the page. The seeds differ from
those used to choose the rules.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lib"))

from support.alert_curves import FAULTY, HEALTHY, RECORDED, draw, healthy_long, recorded
from support.alert_rates import Rates, table

RESULTS = Path(__file__).with_name("alert_rates.json")
PAGE = ROOT / "docs" / "how-to" / "alerts.md"
SEEDS = range(1000, 1050)
"""Seeds of the runs of each kind."""


def measure(seeds: range = SEEDS) -> dict[str, object]:
    """Return the rates by kind of curve, of a run for each seed."""
    found = {}
    for kind in (*HEALTHY, *FAULTY):
        rates = Rates()
        for seed in seeds[::10] if kind is healthy_long else seeds:
            rates.add(draw(kind, seed))
        found[kind.__name__] = rates.as_json()
        print(kind.__name__, found[kind.__name__], flush=True)
    rates = Rates()
    for path in sorted(RECORDED.glob("*.json")):
        rates.add(recorded(path.stem))
    return {**found, "recorded": rates.as_json()}


def main() -> None:
    """Measure, and update the results and the page; with ``page``, update only the page."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if "page" not in sys.argv:
        results["before" if "before" in sys.argv else "now"] = measure()
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    pattern = r"(<!-- rates -->\n).*?(<!-- end of rates -->)"
    page = re.sub(pattern, lambda match: f"{match[1]}{table(results)}\n{match[2]}", page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
