"""The samplers and loaders of the batches of training and evaluations."""

import atexit
import multiprocessing
import signal
from typing import Literal

import torch

from aimnet2mult.config.schema import Config
from aimnet2mult.data.dataset import INPUTS, DataSet
from aimnet2mult.data.mixed_data import MixedData
from aimnet2mult.data.rank_share import BatchLoader as Loader
from aimnet2mult.data.sampler import MixedFidelitySampler
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.distributed.stop_signal import PREEMPTIONS
from aimnet2mult.errors import ConfigError
from aimnet2mult.quantities import Label

__all__ = ["Loader", "build_loader", "evaluation_sampler", "fidelity_weights", "ignore_preemption", "training_sampler"]


def training_sampler(config: Config, data: MixedData) -> MixedFidelitySampler:
    """Return the sampler of the training batches."""
    train = config.data.samplers.train
    return MixedFidelitySampler(
        data.train,
        batch_size=train.batch_size,
        batch_mode=train.batch_mode,
        batches_per_epoch=train.batches_per_epoch,
        seed=config.seed,
        weights=fidelity_weights(config, data),
    )


def evaluation_sampler(config: Config, dataset: DataSet) -> MixedFidelitySampler:
    """Return a sampler that draws each structure once, always in the same order."""
    val = config.data.samplers.val
    return MixedFidelitySampler(dataset, batch_size=val.batch_size, batch_mode=val.batch_mode, shuffle=False)


def build_loader(
    config: Config,
    part: Literal["train", "val"],
    dataset: DataSet,
    sampler: MixedFidelitySampler,
    *,
    labels: tuple[Label, ...],
    communicator: Communicator,
    pin_memory: bool,
) -> Loader:
    """Return a loader with the options in ``data.loaders``."""
    options = {"pin_memory": pin_memory, **getattr(config.data.loaders, part)}
    try:
        # A loader draws a seed for its workers whenever it starts. A seed drawn from the global generator would
        # change a resumed run, which starts the loader one more time.
        generator = torch.Generator().manual_seed(config.seed)
        given = {"generator": generator, "worker_init_fn": ignore_preemption, **options}
        return Loader(
            dataset,
            sampler,
            x=INPUTS,
            y=[label.name for label in labels],
            rank=communicator.rank,
            world=communicator.world_size,
            **given,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data.loaders.{part} is {options!r}: {error}") from error


def fidelity_weights(config: Config, data: MixedData) -> dict[int, float] | None:
    """Return the sampling weight of each fidelity; None to draw every structure once per epoch."""
    weights = config.data.fidelity_weights
    if not weights or config.data.weights_of == "fidelity":
        return weights or None
    return {index: weights.get(index, 1.0) * count for index, count in enumerate(data.train_counts) if count}


def ignore_preemption(_: int) -> None:
    """Keep a loader worker alive when a signal reaches the whole job; the trainer responds to it with a checkpoint.

    By default the worker would end at once, and torch would then fail the training. Workers notice by themselves when
    the trainer ends.
    """
    for number in PREEMPTIONS:
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """End the workers that are left at exit, of a loader with persistent ones or after an error.

    multiprocessing would wait for them forever: it ends its processes with SIGTERM, which they ignore.
    """
    # torch would report their end as an error.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
