"""Worker processes of the data loader while the job is being preempted."""

import multiprocessing
import os
import signal
import subprocess
import sys

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


def test_workers_that_are_left_do_not_delay_the_exit() -> None:
    """A data error leaves workers of its loader, and so does a loader with persistent workers."""
    program = (
        "import torch; from torch.utils.data import DataLoader, TensorDataset\n"
        "from aimnet2mult.train.loaders import ignore_preemption\n"
        "options = {'num_workers': 2, 'persistent_workers': True, 'worker_init_fn': ignore_preemption}\n"
        "loader = DataLoader(TensorDataset(torch.arange(400)), **options)\n"
        "next(iter(loader))\n"
        # As a traceback does.
        "import builtins; builtins.kept = loader\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
