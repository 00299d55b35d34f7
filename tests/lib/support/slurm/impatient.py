"""Train in the current folder like ``--resume auto``, but wait only briefly for an earlier trainer of the run.

The batch scripts of the tests can start it in place of ``aimnet2mult``; its arguments are ignored.
"""

from pathlib import Path

import click

from aimnet2mult.cli.console import run
from aimnet2mult.train.plan import Request
from aimnet2mult.train.runner import train

WAIT_LIMIT = 1.0
"""Maximum wait in seconds."""


@click.command()
def main() -> int:
    """Train, and return the exit code."""
    request = Request(configs=[Path("train.yaml")], model=Path("model.yaml"), resume="auto", allow_packages=["support"])
    return train(request, wait_limit=WAIT_LIMIT)


if __name__ == "__main__":
    run(main, "train", [])
