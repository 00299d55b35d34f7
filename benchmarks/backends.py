"""The backends of a benchmark: an MLflow server, one that seems far away, one that refuses, one that never answers."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "lib")]

from support.mlflow_kit import Server, client_of
from support.mlflow_proxy import Fault, Proxy, Request

DISTANCE = 0.3
"""Seconds that a server which is far away takes to answer."""


class Backends:
    """Where MLflow is, by what it does, and what is asked of it directly. Made by ``backends``."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses

    def where(self, backend: str, experiment: str) -> dict[str, str]:
        """Tell a variant where to write to; makes the experiment."""
        client = client_of(self.addresses["healthy"])
        if client.get_experiment_by_name(experiment) is None:
            client.create_experiment(experiment)
        return {"mlflow": self.addresses.get(backend, self.addresses["healthy"]), "experiment": experiment}

    def points(self, experiment: str) -> int:
        """Say how many points of the loss there are in an experiment."""
        client = client_of(self.addresses["healthy"])
        found = client.get_experiment_by_name(experiment)
        runs = client.search_runs([found.experiment_id])
        keys = [
            (run.info.run_id, key) for run in runs for key in run.data.metrics if key in {"train/loss", "train loss"}
        ]
        return len({point.step for run_id, key in keys for point in client.get_metric_history(run_id, key)})


@contextmanager
def backends(home: Path) -> Iterator[Backends]:
    """Have them all as long as this lasts."""
    home.mkdir()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with ExitStack() as stack:
        server = stack.enter_context(Server(home))
        url = server.start()
        slow = stack.enter_context(Proxy(url))
        slow.fault = _wait
        refusing = stack.enter_context(socket.socket())
        # Bound and not listening: nobody else can listen there, and connections are refused.
        refusing.bind(("127.0.0.1", 0))
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        addresses = {"healthy": url, "slow": slow.url}
        addresses |= {name: _url(each) for name, each in (("refusing", refusing), ("silent", silent))}
        yield Backends(addresses)


def _wait(_: Request) -> Fault | None:
    time.sleep(DISTANCE)
    return None


def _url(of: socket.socket) -> str:
    return f"http://127.0.0.1:{of.getsockname()[1]}"
