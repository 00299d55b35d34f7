"""Compare the curves of a run with MACE's own results, point by point: compare.py RUN RESULTS.TXT."""

import json
import sys
from pathlib import Path

from telemetry import read_run

FACTOR = 23.060547830619  # kcal/mol per eV
run, path = sys.argv[1:]
expected = {}
for line in Path(path).read_text(encoding="utf-8").splitlines():
    values = json.loads(line)
    stream = "train" if values["mode"] == "opt" else "val"
    for name, value in values.items():
        if name not in ("mode", "epoch", "head") and value is not None:
            has_unit = stream == "val" and name.startswith(("rmse_", "mae_"))
            expected.setdefault(f"{stream}/{name}", []).append(value * (FACTOR if has_unit else 1))
# Points superseded by a restart are in MACE's results as well; both are in the order in which they were logged.
curves = read_run(run, superseded=True).curves
found = {name: curve.values.tolist() for name, curve in curves.items() if not name.startswith("system/")}


def rounded(values):
    return [f"{value:.9e}" for value in values]


different = [
    name for name in sorted(expected | found) if rounded(expected.get(name, [])) != rounded(found.get(name, []))
]
print(f"{len(found)} curves, {sum(map(len, found.values()))} points, {len(different)} curves differ")
sys.exit(f"different: {different}" if different else None)
