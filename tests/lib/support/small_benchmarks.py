"""Every part of the benchmarks at the smallest size: ``python -m support.small_benchmarks PART`` in an empty folder."""

from __future__ import annotations

import io
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]

OPTIONAL = {"accelerate": "accelerate", "bare-lightning": "lightning", "lightning": "lightning"}
"""Packages that only some environments have, by variant."""


def loggers(home: Path) -> None:
    """Run the components, the training loops, the deliveries and the page."""
    import components
    import delivery_time
    import memory
    import other_loggers
    import report
    import startup
    import telemetry_runs
    import training_loops
    import unreachable_backend
    from backends import Backends, backends
    from iteration_time import IterationTimer
    from readback import read_back
    from run import RESULTS
    from variants import VARIANTS, Variant
    from workload import TrainingStep

    def run_variant(name: str, variant: Variant, servers: Backends) -> None:
        folder = home / name
        folder.mkdir()
        destination = servers.destination("healthy", name)
        os.environ["MLFLOW_TRACKING_URI"] = destination["mlflow"]
        os.environ["MLFLOW_EXPERIMENT_NAME"] = destination["experiment"]
        sys.stdin = io.StringIO("go\n")
        timer = IterationTimer(TrainingStep(), block=2, rounds=1, every=2)
        if variant.function is None:
            telemetry_runs.run(timer, folder, destination, sinks=variant.sinks)
        else:
            getattr(other_loggers, variant.function)(timer, folder, destination)
        counts = read_back(name, folder, servers, 2)
        assert set(counts.values()) <= {1}, (name, counts)

    components.measure(home / "components", 0.0)
    with backends(home / "server") as servers:
        rows = training_loops.measure(home / "loops", servers, 0.0, ("bare", "none"))
        for name, variant in VARIANTS.items():
            missing = name in OPTIONAL and find_spec(OPTIONAL[name]) is None
            if variant.backend == "healthy" and name != "one" and not missing:
                run_variant(name, variant, servers)
        memory.train(home / "memory", servers.destination("healthy", "memory"), 1)
        delivery_time.measure(home / "delivery", servers, 0.0)
        unreachable = unreachable_backend.measure(home / "unreachable", servers, 0.0)
    (home / "startup").mkdir()
    # Only the first run, which is not measured.
    startup.first_iterations(home / "startup", 0)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    report.write_page(results | {"loops": rows, "unreachable": unreachable}, home)


def options(home: Path) -> None:
    """Run the benchmarks that are not part of ``make bench``."""
    import alert_rates
    import fine_tuning
    import training_options

    few = "data.samplers.train.batches_per_epoch=1"
    training_options.make_step(training_options.MODELS["sample"], "trainer.micro_batches=2")(1)
    training_options.errors(few)
    training_options.training({"bfloat16": (few, "trainer.precision=bfloat16")})
    alert_rates.measure(range(1))
    os.chdir(home)
    for part, remainder in (("train", -1), ("val", 0)):
        fine_tuning.subset(fine_tuning.OLD, part, remainder)
    run = fine_tuning.train("small", [fine_tuning.OLD], 1)
    assert "|" in fine_tuning.errors(run, fine_tuning.OLD)


def hosts(home: Path) -> None:
    """Run the loggers of other frameworks."""
    import host_loggers

    found = host_loggers.measure(home / "hosts", threads=1, rounds=1, block=2, pause=0)
    assert host_loggers.table(found).count("| Lightning: Telemetry") == 2


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    {"loggers": loggers, "options": options, "hosts": hosts}[sys.argv[1]](Path.cwd())
