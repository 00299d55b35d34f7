"""Fork the ranks of jobs, so that torch and aimnet are imported only once.

Each line on stdin is a job: ``{"arguments", "folder", "environments"}`` with one environment per rank. For each process
that ends, a line ``[rank, exit code]`` is written to stdout. A rank writes its output to ``out-<rank>`` and
``err-<rank>`` in the folder, and the events that `Job.events` returns to ``events-<rank>.json``. With ``--double``,
the model is `double_precision.Double`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from aimnet2mult import cli
from aimnet2mult.distributed.process_group import ProcessGroupCommunicator
from aimnet2mult.train import engine as engine_module
from aimnet2mult.train import learner as learner_module

from support import double_precision  # isort: skip - import aimnet through aimnet2mult, which silences its warnings

BACKENDS = {"tensorboard", "wandb", "mlflow"}


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        ranks = {}
        for number, environment in enumerate(job["environments"]):
            pid = os.fork()
            if not pid:
                run_rank(number, environment, job)
            ranks[pid] = number
        sys.stdout.write(json.dumps(list(ranks)) + "\n")
        sys.stdout.flush()
        for _ in job["environments"]:
            pid, status = os.wait()
            sys.stdout.write(json.dumps([ranks[pid], os.waitstatus_to_exitcode(status)]) + "\n")
            sys.stdout.flush()
    # Tearing down the imported libraries would take seconds.
    os._exit(0)


def run_rank(number: int, environment: dict[str, str], job: dict[str, Any]) -> None:
    """Run the command as this rank, with its own output files and environment."""
    folder = Path(job["folder"])
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with (folder / f"{name}-{number}").open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.environ.update(environment)
    events: dict[str, list[Any]] = {"started": [], "imported": [], "reduced": []}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"}:
            events["started"].append(event)
        if event == "import" and arguments[0].partition(".")[0] in BACKENDS:
            events["imported"].append(arguments[0])

    sys.addaudithook(audit)
    all_reduce_sum = ProcessGroupCommunicator.all_reduce_sum

    def count(self: Any, tensor: torch.Tensor) -> None:
        events["reduced"].append(list(tensor.shape))
        all_reduce_sum(self, tensor)

    ProcessGroupCommunicator.all_reduce_sum = count  # type: ignore[method-assign]
    if "--double" in sys.argv:
        engine: Any = engine_module
        learner: Any = learner_module
        engine.to_device = double_precision.as_double
        learner.build_model = double_precision.build
    try:
        cli.run(cli.cli, "aimnet2mult", job["arguments"])
    finally:
        (folder / f"events-{number}.json").write_text(json.dumps(events))


if __name__ == "__main__":
    main()
