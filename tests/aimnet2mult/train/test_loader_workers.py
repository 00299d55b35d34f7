"""The loader's worker processes beside a trainer that is being preempted."""

import os
import signal

import torch
from torch.utils.data import DataLoader, TensorDataset

from aimnet2mult.train.components import _ignore_sigterm


def test_a_sigterm_to_the_whole_job_leaves_the_loaders_workers_at_work() -> None:
    data = TensorDataset(torch.arange(40))
    loader = DataLoader(data, batch_size=1, num_workers=1, prefetch_factor=1, worker_init_fn=_ignore_sigterm)
    batches = iter(loader)
    got = [int(next(batches)[0])]
    for worker in batches._workers:  # type: ignore[attr-defined]
        os.kill(worker.pid, signal.SIGTERM)
    got += [int(batch[0]) for batch in batches]
    assert got == list(range(40))
