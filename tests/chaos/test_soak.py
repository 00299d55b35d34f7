"""Four million iterations with a backend that is down: memory does not grow, and every record arrives in the end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.chaos.backends import Recording, TensorBoard
from support.chaos.run import PATIENCE, ChaosRun
from support.telemetry_fakes import eventually
from telemetry.journal.codec import encode
from telemetry.journal.segments import segments

pytestmark = pytest.mark.chaos

EVERY = 200
ITERATIONS = 4_000_000
GROWTH = 8.0
"""MiB by which a process may grow between a tenth of the run and its end."""
TRAINER = """
import json, sys, time
import msgspec, telemetry
given = json.loads(sys.argv[1])
metrics = {f"train/{name}": telemetry.Metric() for name in ("loss", "E_rmse", "F_rmse", "q_rmse", "s_rmse", "lr")}
settings = msgspec.convert(given["settings"], telemetry.Settings)
bus = telemetry.open_run(given["path"], metrics=metrics, settings=settings)
values = {name.partition("/")[2]: 0.123456789 for name in metrics}
for step in range(1, %d + 1):
    bus.publish("train", step, values)
    if not step %% 200:
        time.sleep(0.001)
        if not step %% %d:
            bus.flush(60)
            print(step, flush=True)
            sys.stdin.readline()
print(bus.close(timeout=1.0))
"""


def resident(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def memory(run: ChaosRun, trainer: int) -> dict[str, float]:
    """Return the resident memory of each process of a run, by its role."""
    out = {"trainer": resident(trainer)}
    for pid in run.processes():
        if pid != trainer:
            log = (Path(f"/proc/{pid}/fd/1").readlink()).name
            out[f"delivery to {log.removesuffix('.log')}"] = resident(pid)
    return out


def test_four_million_iterations_with_a_backend_that_is_down(
    chaos_run: Callable[..., ChaosRun], figures: Callable[[object], None], count: int
) -> None:
    iterations = ITERATIONS * count // 1000 // 10 * 10
    run = chaos_run(Recording(), TensorBoard(), every=EVERY, poll=0.5, linger=PATIENCE)
    down = run.folder / "file" / "down"
    down.parent.mkdir()
    down.touch()
    trainer = run.start_code(TRAINER % (iterations, iterations // 10))
    assert trainer.stdin is not None
    assert trainer.stdout is not None
    seen: list[dict[str, float]] = []
    for _ in range(10):
        assert trainer.stdout.readline()
        # The SDK of a backend is loaded with the first record.
        eventually(lambda: run.accepted("tensorboard"), PATIENCE)
        seen.append(memory(run, trainer.pid))
        trainer.stdin.write("\n")
        trainer.stdin.flush()
    points = iterations // EVERY
    assert f"{points} records offered, {points} journaled" in trainer.communicate(timeout=PATIENCE)[0]
    records = run.records()
    assert len(records) == points
    assert segments(run.run) == [0]
    size = (run.run / "journal-0.jsonl").stat().st_size
    line = max(len(encode(record)) for record in records.values())
    assert size <= points * line + 10_000
    began = time.monotonic()
    down.unlink()
    eventually(lambda: run.accepted("file") >= points, PATIENCE)
    took = time.monotonic() - began
    run.wait_for_processes()
    assert set(run.sinks[0].shown(run.run, records)) == set(records)
    assert len(run.sinks[1].shown(run.run, records)) == points
    grown = {name: round(seen[-1][name] - seen[0][name], 1) for name in seen[0]}
    assert all(growth <= GROWTH for growth in grown.values()), seen
    begun = {name: round(size) for name, size in seen[0].items()}
    figures(
        f"{points} points of {iterations} iterations; journal {size / 1e6:.1f} MB, {size / points:.0f} bytes a point; "
        f"MiB at a tenth {begun}, grown since by {grown}; all delivered {took:.1f} s after the backend was back"
    )
