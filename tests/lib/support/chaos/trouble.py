"""Faults in the batches of a training program, installed by a ``sitecustomize`` on its path.

The environment variable ``TROUBLE`` describes the fault and its iteration as JSON.
"""

from __future__ import annotations

import json
import os
import time
from itertools import count
from pathlib import Path
from typing import Any


def arm() -> None:
    """Install the fault, if there is one."""
    if given := os.environ.get("TROUBLE"):
        _patch(**json.loads(given))


def _patch(what: str, at: int, until: str = "") -> None:
    from aimnet2mult.train import engine

    real, numbers = engine.to_device, count(1)

    def with_trouble(batch: Any, device: Any) -> Any:
        x, y = real(batch, device)
        number = next(numbers)
        if what == "a poisoned batch" and number == at:
            y = {name: 1e4 * labels for name, labels in y.items()}
        elif what == "missing labels" and number > at:
            y["spin_charges"].fill_(float("nan"))
        elif what == "a hung loader" and number == at:
            while not Path(until).exists():
                time.sleep(0.05)
        return x, y

    engine.to_device = with_trouble
