"""Time limits of the W&B sink."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Time limits in seconds.

    Attributes:
        init: time limit of ``wandb.init``.
        write: time limit for passing one batch of records to the wandb client.
        finish: time limit of ``run.finish``, including the upload of pending rows.
        stored: time after ``run.finish`` within which the destination must have stored the whole run.
        exit: time that the wandb client has, when this process exits, to write and upload the rows in its memory.
        request: time limit for the server's answer to a query.
        query_interval: interval between queries of the rows stored on the server.
    """

    init: float = 30.0
    write: float = 60.0
    finish: float = 60.0
    stored: float = 20.0
    exit: float = 10.0
    request: float = 10.0
    query_interval: float = 30.0
