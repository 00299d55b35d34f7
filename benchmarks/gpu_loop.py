"""Train on a GPU, or on the CPU as a rehearsal, and report times or calls: ``python benchmarks/gpu_loop.py JSON``.

`tools/gpu_check.py` starts one process per variant. The job has the keys ``device``, ``folder``, ``variant`` (``bare``
for the training without telemetry), ``sinks``, ``every``, ``iterations``, ``blocks`` and ``profile``.

Without ``profile``, the process writes a line with the seconds of each block of iterations to stdout, and waits before
each block for a line on stdin, so that the blocks of several variants can alternate. With it, the calls of the CUDA
runtime in one block are counted, separately for the training thread and for all others; on the CPU, the operations of
torch take their place.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.profiler import ProfilerActivity, profile

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "lib")]

from aimnet2mult.train.engine import build_trainer
from support.aimnet2_batches import LABELS
from support.gpu import Loop, build
from telemetry import Settings

STRUCTURES, ATOMS = 64, 20
WARM_UP = 1
"""Blocks before the measurement: kernels are compiled, and caches filled."""
RUNTIME = ("cuda_runtime", "cuda_driver")


class NoSums:
    """Error sums that sum nothing."""

    labels = ()

    def update(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    def batch_rmse(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def find_finite(self, *_: Any) -> Any:
        """Do nothing."""


class Blocks:
    """Blocks of iterations, which are the epochs, measured one at a time.

    Args:
        job: the job.
        device: the device.
    """

    def __init__(self, job: dict[str, Any], device: torch.device) -> None:
        self._profile: profile | None = None
        self._job = job
        self._device = device
        self._start = 0.0
        self._out = os.fdopen(os.dup(1), "w")
        # Redirect the output of SDKs, so that stdout carries only reports.
        os.dup2(2, 1)

    def attach(self, engine: Engine) -> None:
        """Measure the epochs of an engine, which has all its other handlers."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        if engine.state.epoch <= WARM_UP:
            return
        if engine.state.epoch > WARM_UP + self._job["blocks"]:
            # The last iteration of a training has a point even if it is not due, so it is left out.
            engine.terminate()
            return
        if self._job["profile"]:
            on_gpu = self._device.type == "cuda"
            self._profile = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
            self._synchronize()
            self._profile.start()
        else:
            self.report(ready=True)
            sys.stdin.readline()
            self._synchronize()
        self._start = time.perf_counter()

    def _end(self, engine: Engine) -> None:
        # Before the handlers of the end of the epoch, which waits for the device.
        measured = WARM_UP < engine.state.epoch <= WARM_UP + self._job["blocks"]
        if not measured or engine.state.iteration % self._job["iterations"]:
            return
        if self._profile is None:
            self._synchronize()
            self.report(seconds=time.perf_counter() - self._start)
        else:
            # Stopping waits for the device.
            self._profile.stop()
            self.report(calls=self._count_calls(self._profile))

    def report(self, **content: Any) -> None:
        """Send a message to the parent process."""
        self._out.write(json.dumps(content) + "\n")
        self._out.flush()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _count_calls(self, finished: profile) -> dict[str, dict[str, int]]:
        """Return the number of calls by name, in the training thread and in the others."""
        path = Path(self._job["folder"]) / "trace.json"
        finished.export_chrome_trace(str(path))
        kinds = RUNTIME if self._device.type == "cuda" else ("cpu_op",)
        with path.open(encoding="utf-8") as file:
            events = [event for event in json.load(file)["traceEvents"] if event.get("cat") in kinds]
        path.unlink()
        own = threading.get_native_id()
        counts: dict[str, Counter[str]] = {"training": Counter(), "others": Counter()}
        for event in events:
            counts["training" if event["tid"] == own else "others"][event["name"]] += 1
        return {name: dict(count) for name, count in counts.items()}


def write_data(folder: Path) -> list[str]:
    """Write random data of two fidelities; return the settings of a training on them."""
    rng, settings = np.random.default_rng(0), []
    for fidelity in range(2):
        path = folder / f"{fidelity}.h5"
        rows = 8 * STRUCTURES
        with h5py.File(path, "w") as file:
            line = np.arange(ATOMS)[:, None] * [1.3, 0.0, 0.0]
            file[f"{ATOMS:03d}/coord"] = (line + rng.normal(0, 0.2, (rows, ATOMS, 3))).astype("f4")
            file[f"{ATOMS:03d}/numbers"] = rng.choice([1, 6, 7, 8], (rows, ATOMS)).astype("i4")
            for label in LABELS:
                file[f"{ATOMS:03d}/{label.name}"] = rng.normal(size=label.shape(rows, ATOMS)).astype("f4")
            file[f"{ATOMS:03d}/charge"], file[f"{ATOMS:03d}/mult"] = np.zeros(rows, "f4"), np.ones(rows, "f4")
        settings.append(f"data.fidelity_datasets.{fidelity}={path}")
    return settings


def telemetry_settings(job: dict[str, Any]) -> Settings:
    """Return the settings of telemetry for a job."""
    folder = Path(job["folder"])
    options: dict[str, dict[str, Any]] = {
        "wandb": {"mode": "offline"},
        "mlflow": {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}"},
    }
    sinks = tuple(job["sinks"])
    return Settings(
        sinks=sinks, every=job["every"], drain_timeout=10.0, options={name: options.get(name, {}) for name in sinks}
    )


def main() -> None:
    """Run the job."""
    job = json.loads(sys.argv[1])
    folder, device = Path(job["folder"]), torch.device(job["device"])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if device.type == "cpu":
        torch.set_num_threads(1)
    overrides = [
        *write_data(folder),
        f"data.samplers.train={{batch_size: {STRUCTURES}, batches_per_epoch: {job['iterations']}}}",
        f"trainer.epochs={WARM_UP + job['blocks'] + 1}",
    ]
    blocks = Blocks(job, device)
    run: Callable[[], object]
    if job["variant"] == "bare":
        config, components = build(folder / "bare", device, *overrides)
        engine = build_trainer(
            components.model,
            components.optimizer,
            components.loss_fn,
            NoSums(),
            device=components.device,
            clip_value=config.trainer.clip_grad_value,
            clip_norm=config.trainer.clip_grad_norm,
            average=components.average,
        )
        run = lambda: engine.run(components.train_loader, max_epochs=config.trainer.epochs)  # noqa: E731
    else:
        loop = Loop(folder / "loop", device, *overrides, settings=telemetry_settings(job))
        engine, run = loop.engine, loop.run
    blocks.attach(engine)
    run()
    blocks.report(done=True)


if __name__ == "__main__":
    main()
