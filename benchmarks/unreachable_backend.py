"""Measure how long another logger blocks training at a due point when the MLflow server is unreachable."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backends import Backends
from interleaving import NoResponse, VariantProcess, environment, make_job

from support.mlflow_proxy import Fault, Proxy

TIMEOUT = 20.0
"""Seconds to wait for a point before giving up."""
FAILURES = {"refusing": "refuses connections", "silent": "never answers"}


def measure(home: Path, backends: Backends, factor: float) -> list[dict[str, Any]]:
    """Return the duration of a call of mlflow.log_metrics in seconds, or None after a timeout, for each failure."""
    timeout = max(3.0, TIMEOUT * min(1.0, factor))
    found = []
    for failure, description in FAILURES.items():
        destination = backends.destination("healthy", f"unreachable-{failure}")
        with ExitStack() as stack:
            proxy = stack.enter_context(Proxy(destination["mlflow"]))
            destination = destination | {"mlflow": proxy.url}
            job = make_job("due-mlflow", home / failure, destination, block=200, rounds=1)
            with VariantProcess(job, environment(destination)) as process:
                process.read_message()
                if failure == "silent":
                    proxy.fault = lambda _: Fault(hangs=True)
                else:
                    stack.close()
                found.append({"server": description, "seconds": _seconds(process, timeout), "timeout": timeout})
    return found


def _seconds(process: VariantProcess, timeout: float) -> float | None:
    try:
        process.run_block(timeout)
    except NoResponse:
        return None
    return max(process.timings.gaps[0]) / 1e9
