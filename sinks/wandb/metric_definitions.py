"""The definitions of metrics, from which W&B makes its charts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sinks._best_values import PREFIX
from sinks.wandb.run_writer import ITERATION_KEY, RESERVED_KEYS


def define_metrics(run: Any, declared: Iterable[str], best: Iterable[str]) -> None:
    """Make the iteration the x-axis of all charts, and show none of the keys that only the sink needs.

    W&B could find the best values itself (``summary="min"``), but counts superseded points, starts over in each offline
    file, and replaces the last value in the summary.

    Args:
        run: the open W&B run.
        declared: the full names of the metrics; if there are none, any metric may follow.
        best: the full names of those with a best value.
    """
    for name in RESERVED_KEYS:
        run.define_metric(name, hidden=True)
    for name in [*declared, *(f"{PREFIX}{full}" for full in best)] or ["*"]:
        run.define_metric(name, step_metric=ITERATION_KEY)
