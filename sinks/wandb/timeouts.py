"""Time limits of the W&B sink."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Time limits in seconds.

    Attributes:
        init: for ``wandb.init``.
        write: for passing one batch of records to the wandb client.
        finish: for ``run.finish``, including the upload of pending rows.
        stored: after ``run.finish``, until the destination has stored the whole run.
        exit: for the wandb client to write and upload what it has in memory when this process exits.
        request: for the server to answer a query.
        query_interval: between two queries of what the server has stored.
    """

    init: float = 30.0
    write: float = 60.0
    finish: float = 60.0
    stored: float = 20.0
    exit: float = 10.0
    request: float = 10.0
    query_interval: float = 30.0
