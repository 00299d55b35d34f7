"""Compare the curves of a run with the file of Lightning's CSV logger, point by point: compare.py RUN METRICS.CSV."""

import csv
import sys
from pathlib import Path

from telemetry import read_run
from telemetry.integrations.host_names import HostNames

run, path = sys.argv[1:]
names = HostNames()
expected = {}
with Path(path).open(newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        for name, value in row.items():
            if value and name != "step":
                expected["/".join(names.resolve(name)), int(row["step"])] = float(value)
curves = read_run(run).curves
found = {
    (name, int(step)): float(value)
    for name, curve in curves.items()
    for step, value in zip(curve.steps, curve.values, strict=True)
    if not name.startswith("system/")
}
different = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
print(f"{len(curves)} curves, {len(found)} points, {len(different)} differences")
sys.exit(f"different: {sorted(different)}" if different else None)
