"""Run all benchmarks and write ``results.json``, the page and its figure: ``python benchmarks/run.py``.

The environment variable BENCH_N scales the duration: 1 is about 15 minutes on an otherwise idle machine, 0.1 a few
minutes. BENCH_OUT names a folder to write to instead of the repository.
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

import components
import delivery_time
import memory
import startup
import step_time
import training_loops
import unreachable_backend
from backends import Backends, backends
from report import write_page
from targets import Target, at_most, format_number
from telemetry_runs import DRAIN_TIMEOUT
from variants import VARIANTS

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
CONDITIONS = {
    "three": "healthy",
    "three-slow": "MLflow with 300 ms latency",
    "three-refusing": "MLflow refuses connections",
    "three-silent": "MLflow never answers",
    "three-suspended": "deliveries suspended",
}
"""Conditions of the backends, by variant."""


def main() -> None:
    """Measure everything and write the results."""
    factor = float(os.environ.get("BENCH_N", "1"))
    out = Path(os.environ["BENCH_OUT"]) if "BENCH_OUT" in os.environ else None
    if out is not None:
        # A mistake in its name must not be noticed only after the measurements.
        out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    results: dict[str, Any] = {"machine": _machine(), "factor": factor}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        _log("micro-benchmarks")
        results["micro"] = _micro(home / "micro.json", factor)
        _log("components")
        targets = components.measure(home / "components", factor) + _micro_targets(results["micro"])
        _log("backends")
        with backends(home / "server") as servers:
            _log("training loops")
            results["loops"] = training_loops.measure(home / "loops", servers, factor)
            _log("due points")
            results["due_points"] = training_loops.measure(
                home / "due-points", servers, factor, ("bare", *CONDITIONS), every=training_loops.FREQUENT
            )
            targets += _loop_targets(results["loops"], results["due_points"])
            parts: dict[str, Callable[[Path, Backends, float], list[Target]]] = {
                "step time": step_time.measure,
                "memory": memory.measure,
                "startup": lambda home, _, factor: startup.measure(home, factor),
                "delivery time": delivery_time.measure,
            }
            for name, measure in parts.items():
                _log(name)
                targets += measure(home / name.replace(" ", "-"), servers, factor)
            _log("unreachable backends")
            results["unreachable"] = unreachable_backend.measure(home / "unreachable", servers, factor)
    results["targets"] = [target._asdict() for target in targets]
    results["minutes"] = round((time.monotonic() - start) / 60, 1)
    (RESULTS if out is None else out / RESULTS.name).write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    write_page(results, out)
    for target in targets:
        print("met   " if target.met else "MISSED", " | ".join(target[:3]))


def _log(part: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {part} …", file=sys.stderr, flush=True)


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
    """Run the micro-benchmarks; return a row for each: group, name, size, median and 99th percentile in µs."""
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
                "name": operation_of(each["name"], each["params"] or {}),
                "size": (each["params"] or {}).get("size"),
                "median_us": median,
                "p99_us": p99,
            }
        )
    return found


def operation_of(test: str, params: dict[str, Any]) -> str:
    """Return what a test measures, and the case unless it is a size: ``read run, all`` for ``test_read_run[all]``."""
    name, _, case = test.removeprefix("test_").removesuffix("]").partition("[")
    return ", ".join([name.replace("_", " "), *([case] if case and "size" not in params else [])])


def _micro_targets(rows: list[dict[str, Any]]) -> list[Target]:
    times = {row["size"]: row["median_us"] for row in rows if row["group"] == "error sums, by structures per batch"}
    few, many = sorted(times)[-2:]
    quantity = f"`ErrorSums.update`: growth from {few:,} to {many:,} structures"
    note = f"{format_number(times[few])} and {format_number(times[many])} µs; {many / few:g} would be linear"
    return [at_most(quantity, 1.1 * many / few, times[many] / times[few], "times", note)]


def _loop_targets(rows: list[dict[str, Any]], due_points: list[dict[str, Any]]) -> list[Target]:
    own = [row for row in rows if VARIANTS[row["name"]].function is None]
    costs = [row["each_us"] for row in own]
    note = f"worst of {len(own)} variants; best: {format_number(min(costs))} µs"
    tails = {row["name"]: row for row in due_points}
    late = max(row["close_s"] for row in own) - DRAIN_TIMEOUT
    runs = [row for row in rows + due_points if VARIANTS[row["name"]].function is None]
    lost = sum(row["points"] - min(row["read_back"].values()) for row in runs)
    return [
        at_most("cost of an iteration over the bare loop", 45, max(costs), "µs", note),
        *(_tail_target(tails[name], condition) for name, condition in CONDITIONS.items()),
        at_most(
            "end of the run, beyond `drain_timeout`",
            2,
            late,
            "s",
            f"drain_timeout {DRAIN_TIMEOUT:g} s; worst of {len(own)} variants",
        ),
        at_most("lost points, in all of these runs", 0, lost, "points"),
    ]


def _tail_target(row: dict[str, Any], condition: str) -> Target:
    note = (
        f"{row['points']:,} points; median {format_number(row['due_p50_us'] / 1e3)} ms; iterations that are not due: "
    )
    note += f"p99 {format_number(row['idle_p99_us'] / 1e3)} ms"
    quantity = f"due point in the training thread, three sinks, p99: {condition}"
    return at_most(quantity, 0.3, row["due_p99_us"] / 1e3, "ms", note)


if __name__ == "__main__":
    main()
