"""The definitions of metrics, from which W&B makes its charts."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from typing import Any

from sinks._best_values import PREFIX
from sinks.wandb.stored_run import ITERATION_KEY, RESERVED_KEYS
from telemetry.sink_api import SinkRejected


def define_metrics(run: Any, declared: Collection[str], best: Collection[str]) -> None:
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
    if declared or best:
        define_axes(run, declared, best)
    else:
        run.define_metric("*", step_metric=ITERATION_KEY)


def define_axes(run: Any, declared: Iterable[str], best: Iterable[str]) -> None:
    """Make the iteration the x-axis of the charts of metrics and of best values, by the full names of the metrics."""
    for name in [*declared, *(f"{PREFIX}{full}" for full in best)]:
        # wandb raises an error for an asterisk that is not the last character.
        if name not in RESERVED_KEYS and "*" not in name[:-1]:
            run.define_metric(name, step_metric=ITERATION_KEY)


def check_names(names: Container[str]) -> None:
    """Check the names in a row. A metric may appear at any time, so its name costs only its own rows.

    Raises:
        SinkRejected: one of them is a key of the sink.
    """
    if reserved := [name for name in RESERVED_KEYS if name in names]:
        msg = f"the name {reserved[0]!r} is reserved by the W&B sink; rename it"
        raise SinkRejected(msg)
