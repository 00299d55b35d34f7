"""Measure the overhead of a variant between consecutive training steps.

Each variant runs in a separate process and asks an ``IterationTimer`` for every step. The time between the end of a
step and the request for the next one is the overhead of telemetry, and of the engine around it, in the training thread.
After each block of steps the variant reports its times and waits, so that the blocks of all variants can be
interleaved.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from workload import Batch, Step


class IterationTimer:
    """Run the steps of a variant and measure the times between them.

    Args:
        step: the training step.
        block: steps per block.
        rounds: number of blocks.
        every: iterations between due points.
    """

    def __init__(self, step: Step, *, block: int, rounds: int, every: int) -> None:
        self.step = step
        self.every = every
        self.total = block * rounds + 1
        """Number of steps; the last step only completes the measurement of the previous one."""
        self.before_block: Callable[[], object] = lambda: None
        """Called before each block, outside the measured time."""
        self.after_block: Callable[[], object] = lambda: None
        """Called after each block, outside the measured time."""
        self._block = block
        self._done = 0
        self._step_end = self._block_start = 0
        self._gaps: list[int] = []
        # Redirect the output of SDKs, so that stdout carries only reports.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def steps(self) -> range:
        """Return the numbers of the steps."""
        return range(1, self.total + 1)

    def run_step(self) -> Batch:
        """Run a step."""
        now = time.perf_counter_ns()
        if self._done:
            self._gaps.append(now - self._step_end)
        if self._done % self._block == 0:
            self._change_block(now)
        batch = self.step()
        self._done += 1
        self._step_end = time.perf_counter_ns()
        return batch

    def report(self, **content: Any) -> None:
        """Send a message to the parent process."""
        self._out.write(json.dumps(content) + "\n")
        self._out.flush()

    def _change_block(self, now: int) -> None:
        if self._done:
            self.after_block()
            self.report(gaps=self._gaps, wall=now - self._block_start)
            self._gaps = []
        else:
            self.report(ready=True)
        if self._done < self.total - 1:
            sys.stdin.readline()
            self.before_block()
        self._block_start = time.perf_counter_ns()
