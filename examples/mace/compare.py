"""Compare the curves of a run with MACE's own results, point by point: compare.py RUN RESULTS.TXT."""

import json
import sys
from collections import Counter
from pathlib import Path

from telemetry import read_run

FACTOR = 23.060547830619  # kcal/mol per eV
run, path = sys.argv[1:]
expected = Counter()
for line in Path(path).read_text(encoding="utf-8").splitlines():
    values = json.loads(line)
    stream = "train" if values["mode"] == "opt" else "val"
    for name, value in values.items():
        if name not in ("mode", "epoch", "head") and value is not None:
            has_unit = stream == "val" and name.startswith(("rmse_", "mae_")) and name != "rmse_relative"
            expected[f"{stream}/{name}", f"{value * (FACTOR if has_unit else 1):.9e}"] += 1
# Points superseded by a restart are in MACE's results as well.
curves = read_run(run, superseded=True).curves
found = Counter(
    (name, f"{value:.9e}") for name, curve in curves.items() for value in curve.values if "system/" not in name
)
different = {key: (expected[key], found[key]) for key in expected | found if expected[key] != found[key]}
print(f"{len(curves)} curves, {found.total()} points, {len(different)} differences")
sys.exit(f"different: {different}" if different else None)
