"""The process of one variant: ``python benchmarks/child.py JSON``, started by ``turns``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import ours
import peers
import torch
from batches import Product, Step
from pace import Pace
from variants import VARIANTS


def main() -> None:
    """Run the variant."""
    job = json.loads(sys.argv[1])
    home, where = Path(job["home"]), job["where"]
    os.chdir(home)
    torch.set_num_threads(job["threads"])
    variant = VARIANTS[job["variant"]]
    step = Product(job["repeats"]) if job["repeats"] else Step()
    pace = Pace(step, block=job["block"], rounds=job["rounds"], every=job["every"])
    if variant.function is not None:
        getattr(peers, variant.function)(pace, home, where)
    else:
        backend = "dead" if variant.backend in {"refusing", "silent"} else variant.backend
        ours.run(pace, home, where, sinks=variant.sinks, backend=backend, pausing=job["pausing"])
    pace.broadcast(done=True)


if __name__ == "__main__":
    main()
