"""The pace of a variant: it does the shared work, notes the time between two steps, and waits for its turn.

A variant runs in a process of its own and asks for each step. What passes between the end of a step and the request
for the next one is what telemetry, and the engine around it, cost the training thread. After each block of steps the
variant reports its times and waits, so that the blocks of all variants can be taken in turns.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from batches import Batch


class Pace:
    """Give steps.

    Args:
        step: the work.
        block: steps of a block.
        rounds: blocks.
        every: a point is due at each iteration that this divides.
    """

    def __init__(self, step: Callable[[], Batch], *, block: int, rounds: int, every: int) -> None:
        self.step = step
        self.every = every
        self.total = block * rounds + 1
        """Steps that there are; the last one only ends the time of the one before."""
        self.before: Callable[[], object] = lambda: None
        """Called before each block, outside the time that is taken."""
        self.after: Callable[[], object] = lambda: None
        """Called after each block, likewise."""
        self._block = block
        self._done = 0
        self._ended = self._began = 0
        self._gaps: list[int] = []
        # What the SDKs print must not come between.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def steps(self) -> range:
        """Give the numbers of the steps."""
        return range(1, self.total + 1)

    def work(self) -> Batch:
        """Do a step."""
        now = time.perf_counter_ns()
        if self._done:
            self._gaps.append(now - self._ended)
        if self._done % self._block == 0:
            self._turn(now)
        batch = self.step()
        self._done += 1
        self._ended = time.perf_counter_ns()
        return batch

    def tell(self, **what: Any) -> None:
        """Report something."""
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()

    def _turn(self, now: int) -> None:
        if self._done:
            self.after()
            self.broadcast(gaps=self._gaps, wall=now - self._began)
            self._gaps = []
        else:
            self.broadcast(ready=True)
        if self._done < self.total - 1:
            sys.stdin.readline()
            self.before()
        self._began = time.perf_counter_ns()
