"""All benchmarks: ``python benchmarks/run.py``, which writes ``results.json``, the page, and its picture.

BENCH_N makes them shorter or longer: 1 is a quarter of an hour, 0.1 a few minutes, on a machine that is quiet.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import basics
import dead
import finished
import loops
import memory
import startup
import steps
from backends import Backends, backends
from ours import DRAIN
from page import write_page
from target import Target, at_most, number

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PACKAGES = (
    "aimnet2mult",
    "torch",
    "tensorboard",
    "wandb",
    "mlflow",
    "pytorch-ignite",
    "accelerate",
    "lightning",
    "torchmetrics",
    "aimnet",
    "numpy",
)
STATES = {
    "three": "healthy",
    "three-slow": "MLflow 300 ms away",
    "three-refusing": "MLflow refuses connections",
    "three-silent": "MLflow never answers",
    "three-frozen": "deliveries frozen",
}


def main() -> None:
    """Measure everything, and write it down. BENCH_OUT names a folder for it other than the repository's own."""
    factor = float(os.environ.get("BENCH_N", "1"))
    out = Path(os.environ["BENCH_OUT"]) if "BENCH_OUT" in os.environ else None
    began = time.monotonic()
    results: dict[str, Any] = {"machine": _machine(), "factor": factor}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        _say("parts")
        results["micro"] = _micro(home / "micro.json", factor)
        _say("due, error sums, journal")
        targets = basics.rows(home / "basics", factor)
        _say("backends")
        with backends(home / "server") as where:
            _say("loops, all variants in turns")
            results["loops"] = loops.run(home / "loops", where, factor)
            targets += _of_loops(results["loops"])
            parts: dict[str, Callable[[Path, Backends, float], list[Target]]] = {
                "whole steps": steps.rows,
                "memory": memory.rows,
                "start": lambda home, _, factor: startup.rows(home, factor),
                "finished runs": finished.rows,
            }
            for name, rows in parts.items():
                _say(name)
                targets += rows(home / name.replace(" ", "-"), where, factor)
            _say("dead servers")
            results["dead"] = dead.rows(home / "dead", where, factor)
    results["targets"] = [target._asdict() for target in targets]
    results["minutes"] = round((time.monotonic() - began) / 60, 1)
    (RESULTS if out is None else out / RESULTS.name).write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    write_page(results, out)
    for target in targets:
        print("met   " if target.met else "MISSED", " | ".join(target[:3]))


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what} …", file=sys.stderr, flush=True)


def _machine() -> dict[str, Any]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _micro(file: Path, factor: float) -> list[dict[str, Any]]:
    """Run the measurements of parts; give the group, name, median and 99th percentile of each, in µs."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "micro")]
    command += [f"--benchmark-json={file}", f"--benchmark-max-time={max(0.1, factor)}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=900)
    found = []
    for each in json.loads(file.read_text())["benchmarks"]:
        data = sorted(each["stats"]["data"])
        median, p99 = statistics.median(data) * 1e6, data[int(0.99 * (len(data) - 1))] * 1e6
        found.append(
            {
                "group": each["group"],
                "name": each["name"].removeprefix("test_").partition("[")[0].replace("_", " "),
                "size": (each["params"] or {}).get("size"),
                "median_us": median,
                "p99_us": p99,
            }
        )
    return found


def _of_loops(rows: list[dict[str, Any]]) -> list[Target]:
    ours = {row["name"]: row for row in rows if row["name"] in STATES}
    (bare,) = (row["due_p99_us"] / 1e3 for row in rows if row["name"] == "bare")
    note = f"the bare loop's own: {number(bare)}"
    what = "due point of the training thread, three sinks, p99"
    targets = [
        at_most(f"{what}: {state}", 0.3, ours[name]["due_p99_us"] / 1e3, "ms", note) for name, state in STATES.items()
    ]
    late = max(row["closed_s"] for row in ours.values()) - DRAIN
    note = f"drain_timeout {DRAIN:g} s, the worst of {len(ours)} states"
    lost = sum(row["points"] - min(row["kept"].values()) for row in ours.values())
    return [
        *targets,
        at_most("end of the run, beyond `drain_timeout`", 2, late, "s", note),
        at_most("points lost, of all these runs", 0, lost, "points"),
    ]


if __name__ == "__main__":
    main()
