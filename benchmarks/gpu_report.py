"""The tables of a check on a GPU, and the page ``docs/explanation/gpu.md``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "gpu.json"
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "gpu.md"
VARIANTS = {
    "bare": "no telemetry",
    "none": "telemetry, no sink",
    "one": "telemetry, TensorBoard",
    "three": "telemetry, TensorBoard, W&B (offline) and MLflow",
}
PROFILES = {"bare": "no telemetry", "between": "telemetry, between due points", "due": "telemetry, every iteration due"}
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
OTHERS = ("cudaMemcpyAsync", "cudaMemsetAsync", "cudaEventRecord", "cudaEventQuery", "cudaHostAlloc", "cudaMalloc")

Results = dict[str, Any]

HEAD = """# Training on a GPU

`python tools/gpu_check.py` checks what only happens on a GPU, on a machine with one CUDA device, in less than eight
minutes: it runs the tests marked `gpu`, measures the duration of a step, and counts the launches and synchronizations
of an iteration ([CONTRIBUTING.md](https://github.com/aimnet2mult/aimnet2mult/blob/main/CONTRIBUTING.md)
describes its options). `python tools/gpu_check.py --publish` writes this page.
"""
NOTHING = """
**There are no results yet: none of the code for CUDA has run on a GPU.** Until then, there are these tests, which run
on CPUs:

* A training of an AIMNet2 on torch's meta device, which has no values, so that any read of a value is an error, as is
  any copy from the CPU that would wait (`tests/aimnet2mult/train/test_device_waits.py`). It covers the model, the loss,
  the optimizer, clipping, averaged weights, the error sums and the reporter.
* The kernels of the error sums are compiled for CUDA, but not run
  (`tests/aimnet2mult/metrics/test_kernels.py`).
* The tests marked `gpu`, except those of NCCL, TF32 and asynchronous copies, can be rehearsed on the CPU (`pytest
  tests/gpu --device=cpu`).
"""


def waits_of(calls: dict[str, dict[str, int]]) -> int:
    """Return the number of calls that made the training wait for the device.

    Other threads launch the kernels of the backward pass, and wait, with events, for the copies of published values.
    """
    own = sum(calls["training"].get(name, 0) for name in WAITS)
    return own + sum(calls["others"].get(name, 0) for name in WAITS if name != "cudaEventSynchronize")


def render_page(results: Results | None) -> str:
    """Return the page."""
    return HEAD + (NOTHING if results is None else f"\n{render(results)}")


def render(results: Results) -> str:
    """Return the tables of the results, as far as there are any."""
    parts = results["parts"]
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [f"{', '.join(filter(None, [results['date'], machine]))}; {results['seconds']:.0f} s.", ""]
    if results["device"] == "cpu":
        lines += ["**A rehearsal on the CPU: none of these figures is about a GPU.**", ""]
    lines += ["| part | result | seconds |", "|---|---|---|"]
    lines += [f"| {name} | {part['result']} | {part['seconds']:.0f} |" for name, part in parts.items()]
    lines += [""]
    if rounds := parts.get("step time", {}).get("ms"):
        lines += _step_times(rounds)
    if profiles := parts.get("launches", {}).get("profiles"):
        lines += _launches(profiles, parts["launches"]["iterations"], on_gpu=results["device"] == "cuda")
    return "\n".join(lines)


def _step_times(rounds: dict[str, list[float]]) -> list[str]:
    lines = [
        f"Milliseconds per iteration of 64 structures of 20 atoms: medians of {len(rounds['bare'])} alternating",
        "blocks, and the quartiles of the difference within a round. The model is that of the sample, with two",
        "fidelities.",
        "",
        "| | ms | more than without telemetry, ms |",
        "|---|---|---|",
    ]
    for name, title in VARIANTS.items():
        extra = [one - bare for one, bare in zip(rounds.get(name, []), rounds["bare"], strict=False)]
        if not extra:
            continue
        low, high = (min(extra), max(extra)) if len(extra) < 4 else statistics.quantiles(extra, n=4)[::2]  # noqa: PLR2004
        difference = "" if name == "bare" else f"{statistics.median(extra):+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"| {title} | {statistics.median(rounds[name]):.3f} | {difference} |")
    return [*lines, ""]


def _launches(profiles: dict[str, Any], iterations: int, *, on_gpu: bool) -> list[str]:
    if not on_gpu:
        lines = [
            "Operations of torch per iteration, which take the place of launches:",
            "",
            "| | operations |",
            "|---|---|",
        ]
        for name, calls in profiles.items():
            count = sum(sum(counts.values()) for counts in calls.values())
            lines.append(f"| {PROFILES[name]} | {count / iterations:.1f} |")
        return [*lines, ""]
    rows = {"kernel launches": LAUNCHES, **{f"`{name}`": (name,) for name in (*OTHERS, *WAITS)}}
    lines = [
        f"Calls per iteration in all threads, from torch's profiler over {iterations} iterations; after the slash,",
        "those in the training thread. The thread of the bus waits with `cudaEventSynchronize`, and the profiler",
        "itself waits for the device once.",
        "",
        f"| | {' | '.join(PROFILES[name] for name in profiles)} |",
        "|---" * (1 + len(profiles)) + "|",
    ]
    for title, names in rows.items():
        cells = []
        for calls in profiles.values():
            own, other = (sum(calls[thread].get(name, 0) for name in names) for thread in ("training", "others"))
            cells.append(f"{(own + other) / iterations:.2f} / {own / iterations:.2f}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return [*lines, ""]


def read_results() -> Results | None:
    """Return the published results, if there are any."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None


def publish(results: Results | None) -> None:
    """Write the results, if any, and the page."""
    if results is not None:
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(render_page(results), encoding="utf-8")
