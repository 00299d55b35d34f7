"""What others do when an MLflow server dies under them: how long one due point then stops the training thread."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from backends import Backends
from turns import Late, Turn, environment, job_of

from support.mlflow_proxy import Fault, Proxy

PATIENCE = 20.0
"""Seconds after which a point that has not returned is given up."""
HOW = {"refusing": "refuses connections", "silent": "never answers"}


def rows(home: Path, where: Backends, factor: float) -> list[dict[str, Any]]:
    """Give, for each way to be dead, the seconds that one call of mlflow.log_metrics took, or None for too many."""
    patience = max(3.0, PATIENCE * min(1.0, factor))
    found = []
    for how, title in HOW.items():
        there = where.where("healthy", f"dead-{how}")
        with ExitStack() as stack:
            proxy = stack.enter_context(Proxy(there["mlflow"]))
            there = there | {"mlflow": proxy.url}
            with Turn(job_of("due-mlflow", home / how, there, block=200, rounds=1), environment(there)) as turn:
                turn.hear()
                if how == "silent":
                    proxy.fault = lambda _: Fault(hangs=True)
                else:
                    stack.close()
                found.append({"how": title, "seconds": _seconds(turn, patience), "patience": patience})
    return found


def _seconds(turn: Turn, patience: float) -> float | None:
    try:
        turn.go(patience)
    except Late:
        return None
    return max(turn.taken.gaps[0]) / 1e9
