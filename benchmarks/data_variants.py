"""The data loaders that `data_loading.py` compares; ``python benchmarks/data_variants.py ROLE JSON`` runs one process.

Roles: ``aimnet-rank`` starts a training with aimnet's loader as aimnet's trainer does, and prints the time of its first
iteration; ``batches`` opens a data set and measures its loader, on command.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_MODEL = Path(__file__).parent.parent / "aimnet2mult" / "sample" / "model.yaml"
LABELS = ("energy", "forces", "charges", "spin_charges")
VAL_FRACTION = 0.001
"""Validation is not measured, so few structures are for it."""
STEP = 0.01
"""Duration of the steps that may have to wait for data, in seconds."""
WARM_UP = 20
"""Batches before the measurement, after which the queues of the workers are full."""
REPLIES = os.fdopen(os.dup(1), "w")
"""The output, to which Warp, for example, would print warnings."""


@dataclass(frozen=True)
class Variant:
    """A data set and how it is loaded."""

    name: str
    title: str
    compressed: bool = False
    """Whether the file is compressed, in chunks."""
    settings: tuple[str, ...] = ()
    copies: float = 0.0
    """Largest memory while loading, relative to the size of the data, to skip what does not fit."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("aimnet", "aimnet's loader", copies=4.0),
        Variant("before", "this package, before", copies=3.0),
        Variant("default", "this package, default settings", copies=1.0),
        Variant("memory", "this package, in memory", settings=("data.in_memory_gb=1000",), copies=1.5),
        Variant("file", "this package, from the file", settings=("data.in_memory_gb=0",)),
        Variant("cache", "this package, from the cache", compressed=True, settings=("data.in_memory_gb=0",)),
    )
}


def overrides(variant: Variant, data: Path, batch: int, workers: int = 0) -> list[str]:
    """Return the settings of a training of this package."""
    return [
        f"data.fidelity_datasets.0={data}",
        f"data.y=[{','.join(LABELS)}]",
        f"data.val_fraction={VAL_FRACTION}",
        f"data.samplers.train.batch_size={batch}",
        f"data.loaders.train.num_workers={workers}",
        "telemetry.sinks=none",
        "threads=1",
        "device=cpu",
        *variant.settings,
    ]


def aimnet_config(data: Path, sae: Path, batch: int, workers: int = 0) -> Any:
    """Return aimnet's configuration of the same training."""
    import aimnet.train.train
    from omegaconf import OmegaConf

    default = OmegaConf.load(Path(aimnet.train.train.__file__).with_name("default_train.yaml"))
    options = [
        "run_name=benchmark",
        f"data.train={data}",
        f"data.sae.energy.file={sae}",
        f"data.y=[{','.join(LABELS)}]",
        f"data.val_fraction={VAL_FRACTION}",
        f"data.samplers.train.kwargs.batch_size={batch}",
        "data.samplers.train.kwargs.batches_per_epoch=-1",
        f"data.loaders.train.num_workers={workers}",
        "data.loaders.train.pin_memory=false",
        "data.loaders.val.pin_memory=false",
    ]
    return OmegaConf.merge(default, OmegaConf.from_dotlist(options))


def train_with_aimnet(job: dict[str, Any]) -> None:
    """Train some iterations with aimnet's loader, model and loss; print the time of the first one."""
    import torch
    from aimnet.train import utils
    from ignite import distributed as idist
    from omegaconf import OmegaConf

    torch.set_num_threads(1)
    if int(os.environ["WORLD_SIZE"]) > 1:
        idist.initialize("gloo")
    definition = OmegaConf.load(SAMPLE_MODEL)
    # With two channels, the model requires multiplicities, which aimnet does not set.
    definition.kwargs.num_charge_channels = 1
    model = utils.build_model(definition, forces=True)
    if idist.get_world_size() > 1:
        model = idist.auto_model(model)
    config = aimnet_config(job["data"], job["sae"], job["batch"])
    loader, _ = utils.get_loaders(config.data)
    optimizer = utils.get_optimizer(model, config.optimizer)
    loss_fn = utils.get_loss(config.loss)
    model.train()
    for number, (x, y) in enumerate(itertools.islice(loader, job["iterations"])):
        optimizer.zero_grad()
        loss_fn(model(x), y)["loss"].backward()
        optimizer.step()
        if not number:
            reply({"first_iteration": time.time()})


def open_aimnet(job: dict[str, Any]) -> Callable[[int, int], Any]:
    """Return a function that makes aimnet's loader of a batch size and number of workers."""
    from aimnet.train import utils

    config = aimnet_config(job["data"], job["sae"], job["batch"])
    train, _ = utils.load_dataset(config.data).random_split(1 - VAL_FRACTION, VAL_FRACTION)
    train.merge_groups(min_size=8 * job["batch"])

    def make(batch: int, workers: int) -> Any:
        data = aimnet_config(job["data"], job["sae"], batch, workers).data
        return train.get_loader(utils.get_sampler(train, data), data.x, data.y, **data.loaders.train)

    return make


def open_own(job: dict[str, Any]) -> Callable[[int, int], Any]:
    """Return a function that makes the loader of this package of a batch size and number of workers."""
    from aimnet2mult.config.schema import load
    from aimnet2mult.distributed.communicator import Communicator
    from aimnet2mult.models.definition import read_definition
    from aimnet2mult.train.components import build_components
    from aimnet2mult.train.loaders import build_loader, training_sampler

    variant = VARIANTS[job["variant"]]
    config = load([], [*overrides(variant, job["data"], job["batch"]), *job["settings"]])
    with tempfile.TemporaryDirectory() as folder:
        options = {} if variant.name == "before" else _find_caches(config, Path(folder))
        components = build_components(config, read_definition(SAMPLE_MODEL), Path(folder), **options)

    def make(batch: int, workers: int) -> Any:
        config = load([], [*overrides(variant, job["data"], batch, workers), *job["settings"]])
        sampler = training_sampler(config, components.data)
        return build_loader(
            config,
            "train",
            components.data.train,
            sampler,
            labels=components.labels,
            communicator=Communicator(),
            pin_memory=False,
        )

    return make


def _find_caches(config: Any, runs: Path) -> dict[str, Any]:
    """Check the data, build missing caches, and return the options of `build_components` that use them."""
    from aimnet2mult.data.cache.stores import Locations
    from aimnet2mult.data.compositions import MAX_ELEMENT
    from aimnet2mult.train.data_check import check_data

    report = check_data(config, runs, resumes=False, max_element=MAX_ELEMENT)
    caches = {path: folder for path, folder in report.caches.items() if folder is not None}
    return {"skipped": report.skipped, "contents": report.contents, "open_stores": Locations(caches=caches).open_stores}


def measure_speed(loader: Any, batches: int) -> dict[str, float]:
    """Return the structures per second of a loader, and the CPU time of this process per structure."""
    iterator = iter(loader)
    for _ in range(WARM_UP):
        next(iterator)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    for x, _ in itertools.islice(iterator, min(batches, len(loader) - WARM_UP)):
        count += len(x["numbers"])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"structures_per_s": count / seconds, "cpu_us": 1e6 * cpu / count}


def measure_steps(loader: Any, batches: int) -> dict[str, Any]:
    """Return how long steps that take ``STEP`` otherwise wait for data, in ms."""
    iterator = iter(loader)
    waits = []
    for _ in range(min(WARM_UP + batches, len(loader))):
        start = time.perf_counter()
        next(iterator)
        waits.append(1e3 * (time.perf_counter() - start))
        # As on a GPU: the step needs no core.
        time.sleep(STEP)
    return {"waits_ms": waits[WARM_UP:]}


def measure_batches(job: dict[str, Any]) -> None:
    """Open the data; then measure a loader per line of input, and print the result."""
    import torch

    torch.set_num_threads(1)
    make = (open_aimnet if job["variant"] == "aimnet" else open_own)(job)
    reply({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        measure = measure_steps if request["steps"] else measure_speed
        reply(measure(make(request["batch"], request["workers"]), request["batches"]))


def reply(message: dict[str, Any]) -> None:
    """Print a message; other output goes to stderr."""
    print(json.dumps(message), file=REPLIES, flush=True)


if __name__ == "__main__":
    os.dup2(2, 1)
    {"aimnet-rank": train_with_aimnet, "batches": measure_batches}[sys.argv[1]](json.loads(sys.argv[2]))
