"""Becomes the ranks of jobs: forks them, so that torch and aimnet are imported once.

Each line on stdin is a job: ``{"arguments", "folder", "environments"}``, the last with one mapping a rank. For each
process that ends a line ``[rank, exit code]`` is written to stdout. A rank writes to ``out-<rank>`` and ``err-<rank>``
in the folder, and what it did to ``seen-<rank>.json``.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from aimnet2mult import cli
from aimnet2mult.distributed import process_group as group
from aimnet2mult.train import components as parts
from aimnet2mult.train import engine

from support import double_precision  # isort: skip - aimnet is to be imported by what keeps it quiet

BACKENDS = {"tensorboard", "wandb", "mlflow"}


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        ranks = {}
        for number, environment in enumerate(job["environments"]):
            pid = os.fork()
            if not pid:
                become(number, environment, job)
            ranks[pid] = number
        sys.stdout.write(json.dumps(list(ranks)) + "\n")
        sys.stdout.flush()
        for _ in job["environments"]:
            pid, status = os.wait()
            sys.stdout.write(json.dumps([ranks[pid], os.waitstatus_to_exitcode(status)]) + "\n")
            sys.stdout.flush()
    # Taking apart what was imported takes seconds.
    os._exit(0)


def become(number: int, environment: dict[str, str], job: dict[str, Any]) -> None:
    """Run the command as this rank."""
    folder = Path(job["folder"])
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with (folder / f"{name}-{number}").open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.environ.update(environment)
    seen: dict[str, list[Any]] = {"started": [], "imported": [], "added up": []}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"}:
            seen["started"].append(event)
        if event == "import" and arguments[0].partition(".")[0] in BACKENDS:
            seen["imported"].append(arguments[0])

    sys.addaudithook(audit)
    all_reduce_sum = group._Group.all_reduce_sum

    def count(self: Any, tensor: torch.Tensor) -> None:
        seen["added up"].append(list(tensor.shape))
        all_reduce_sum(self, tensor)

    group._Group.all_reduce_sum = count  # type: ignore[method-assign]
    engine._to_device = double_precision.as_double
    parts.build_model = double_precision.build
    try:
        cli.run(cli.cli, "aimnet2mult", job["arguments"])
    finally:
        (folder / f"seen-{number}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
