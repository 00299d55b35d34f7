"""The MLflow servers of a benchmark: healthy, with high latency, refusing connections, or never answering."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "lib")]

from support.mlflow_kit import Server, client_of
from support.mlflow_proxy import Fault, Proxy, Request

LATENCY = 0.3
"""Response time of the slow server, in seconds."""
LOSS_KEYS = {"train/loss", "train loss"}
"""Keys under which the variants log the loss."""


class Backends:
    """Addresses of the MLflow servers, and queries to the healthy one. Created by ``backends``."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses

    def destination(self, backend: str, experiment: str) -> dict[str, str]:
        """Create the experiment, and return the server and the experiment that a variant writes to."""
        client = client_of(self.addresses["healthy"])
        if client.get_experiment_by_name(experiment) is None:
            client.create_experiment(experiment)
        return {"mlflow": self.addresses.get(backend, self.addresses["healthy"]), "experiment": experiment}

    def count_points(self, experiment: str) -> int:
        """Return the number of points of the loss in an experiment."""
        client = client_of(self.addresses["healthy"])
        found = client.get_experiment_by_name(experiment)
        runs = client.search_runs([found.experiment_id])
        keys = [(run.info.run_id, key) for run in runs for key in run.data.metrics if key in LOSS_KEYS]
        return len({point.step for run_id, key in keys for point in client.get_metric_history(run_id, key)})


@contextmanager
def backends(home: Path) -> Iterator[Backends]:
    """Start all servers, with their files in ``home``; stop them on exit."""
    home.mkdir()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # Otherwise the server runs seven more processes, each of which wakes ten times a second.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with ExitStack() as stack:
        server = stack.enter_context(Server(home))
        url = _start_at_lowest_priority(server)
        slow = stack.enter_context(Proxy(url))
        slow.fault = _delay
        refusing = stack.enter_context(socket.socket())
        # Bound but not listening: no other process can take the port, and connections are refused.
        refusing.bind(("127.0.0.1", 0))
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        addresses = {"healthy": url, "slow": slow.url, "refusing": _url(refusing), "silent": _url(silent)}
        yield Backends(addresses)


def _start_at_lowest_priority(server: Server) -> str:
    """Start the server so that it only uses idle cores: usually, it runs on another machine."""
    # A process inherits the scheduling class of the thread that starts it.
    with ThreadPoolExecutor(1, initializer=lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))) as pool:
        return pool.submit(server.start).result()


def _delay(_: Request) -> Fault | None:
    time.sleep(LATENCY)
    return None


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
