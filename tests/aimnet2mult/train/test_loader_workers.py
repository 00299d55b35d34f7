"""Worker processes of the data loader while the job is being preempted."""

import multiprocessing
import os
import signal

import torch
from torch.utils.data import DataLoader, TensorDataset

from aimnet2mult.train.loaders import ignore_preemption


def test_loader_workers_keep_working_after_signals_to_the_whole_job() -> None:
    data = TensorDataset(torch.arange(40))
    loader = DataLoader(data, batch_size=1, num_workers=1, prefetch_factor=1, worker_init_fn=ignore_preemption)
    batches = iter(loader)
    got = [int(next(batches)[0])]
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(worker.pid, number)
    got += [int(batch[0]) for batch in batches]
    assert got == list(range(40))
