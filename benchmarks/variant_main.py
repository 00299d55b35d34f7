"""Run one variant: ``python benchmarks/variant_main.py JSON``, started by ``interleaving``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import other_loggers
import telemetry_runs
import torch
from iteration_time import IterationTimer
from variants import VARIANTS
from workload import MatrixProduct, TrainingStep


def main() -> None:
    """Run the variant."""
    job = json.loads(sys.argv[1])
    home, destination = Path(job["home"]), job["destination"]
    os.chdir(home)
    torch.set_num_threads(job["threads"])
    variant = VARIANTS[job["variant"]]
    step = MatrixProduct(job["repeats"]) if job["repeats"] else TrainingStep()
    timer = IterationTimer(step, block=job["block"], rounds=job["rounds"], every=job["every"])
    if variant.function is not None:
        getattr(other_loggers, variant.function)(timer, home, destination)
    else:
        backend = "unreachable" if variant.backend in {"refusing", "silent"} else variant.backend
        telemetry_runs.run(
            timer, home, destination, sinks=variant.sinks, backend=backend, between_blocks=job["between_blocks"]
        )
    timer.report(done=True)


if __name__ == "__main__":
    main()
