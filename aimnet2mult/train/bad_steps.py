"""Training steps that were not applied because their loss or gradient was not finite: count them and name the cause."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.config.sections import Trainer
from aimnet2mult.data.dataset import INPUTS
from aimnet2mult.data.rank_share import load_rows
from aimnet2mult.metrics.error_sums import Snapshot
from aimnet2mult.models.weights import are_finite
from aimnet2mult.train.components import Components
from aimnet2mult.train.console import Console
from aimnet2mult.train.culprits import find_culprits
from aimnet2mult.train.engine import Batch, LossFunction, to_device
from aimnet2mult.train.repeats import Repeats
from aimnet2mult.train.reporter import Bus
from telemetry.errors import format_error

__all__ = ["BadStepReport", "BadSteps"]

MAX_NAMED = 10
"""Maximum number of structures named in a message."""
MAX_ALERTS = 50
"""Maximum number of alerts about skipped steps per start or resume of a run."""
MAX_LINES, MAX_SHOWN = 5, 3
"""Maximum numbers of these alerts that are also printed, and of structures named in a line."""

Rows = NDArray[np.int64]


class BadSteps:
    """The skipped steps of a run, and whether they are a reason to end it.

    Every rank has an instance. All see the same flags, but on CUDA each of them may see a flag a few iterations later,
    when the copy has arrived; so they have to agree on when to stop.

    Args:
        config: ``on_bad_step`` and ``max_bad_steps``.
        report: function of the iteration of a skipped step that reports it, and returns the cause.
    """

    def __init__(self, config: Trainer, report: Callable[[int], str]) -> None:
        self.failure = ""
        """Why to end the run, or ""."""
        self.suspect_from: int | None = None
        """If many steps in a row are the reason: the iteration since which the weights have been those that gave no
        finite loss or gradient. Single bad structures do not make the weights suspicious."""
        self._limit = 1 if config.on_bad_step == "stop" else config.max_bad_steps
        self._report = report
        self._pending: deque[tuple[int, Snapshot]] = deque()
        self._in_a_row = 0
        self._has_applied = False

    @property
    def all_skipped(self) -> bool:
        """Whether every step so far was skipped, as far as the flags have arrived; False before the first step."""
        return bool(self._in_a_row) and not self._has_applied

    def add(self, iteration: int, applied: Tensor) -> None:
        """Note whether the step of an iteration was applied, a scalar boolean, without waiting for it."""
        self._pending.append((iteration, Snapshot(applied)))
        while self._pending and self._pending[0][1].done:
            self._examine(*self._pending.popleft())

    def wait(self) -> None:
        """Wait for the flags of all steps so far."""
        while self._pending:
            self._examine(*self._pending.popleft())

    def _examine(self, iteration: int, applied: Snapshot) -> None:
        if applied.wait():
            self._in_a_row = 0
            self._has_applied = True
            return
        self._in_a_row += 1
        cause = self._report(iteration)
        if self._in_a_row >= self._limit and not self.failure:
            steps = "the training step" if self._limit == 1 else f"{self._limit} training steps in a row, the last one"
            if self._limit > 1:
                self.suspect_from = iteration - self._in_a_row
            self.failure = f"loss or gradient not finite in {steps} at iteration {iteration}: {_shorten(cause)}"


def _shorten(cause: str) -> str:
    """Return a text with only the first few of the structures that it names."""
    names = cause.split("; ")
    return "; ".join([*names[:MAX_SHOWN], *(["…"] if len(names) > MAX_SHOWN else [])])


class BadStepReport:
    """Alerts and messages about skipped steps, on rank 0; each structure that causes them is named only once.

    Args:
        components: components of the run; the batch is evaluated again to find the structures that are the cause.
        loss_fn: the loss function, which must not communicate with other ranks.
        bus: bus to which alerts are published.
        console: console on which the first alerts are also printed.
        max_alerts: maximum number of alerts; afterwards, the steps are only counted.
        micro_batches: number of parts in which a batch is processed.
    """

    def __init__(
        self,
        components: Components,
        loss_fn: LossFunction,
        *,
        bus: Bus,
        console: Console,
        max_alerts: int = MAX_ALERTS,
        micro_batches: int = 1,
    ) -> None:
        self._components = components
        self._loss_fn = loss_fn
        self._bus = bus
        self._console = console
        self._micro_batches = micro_batches
        self._named: set[tuple[int, int]] = set()
        self._unexplained = Repeats()
        self._alerts_left = max_alerts
        self._lines_left = MAX_LINES

    def __call__(self, iteration: int) -> str:
        """Report a skipped step, unless its cause has been reported, and return the cause."""
        cause, is_new = self._explain(*self._components.sampler.batch_at(iteration - 1))
        if is_new:
            self._alerts_left -= 1
            more = "" if self._alerts_left else "; further ones are only counted, as skipped_steps"
            title = "step skipped: loss or gradient is not finite"
            self._bus.alert(step=iteration, title=title, text=cause + more)
            self._print(f"warning: iteration {iteration}: {title}: {cause}", more)
        return cause

    def _print(self, line: str, more: str) -> None:
        """Print a line with a few of the structures; too large a learning rate would print hundreds."""
        if self._lines_left:
            self._lines_left -= 1
            more = more if self._lines_left else "; further ones are only recorded as alerts"
            self._console.say(f"{_shorten(line)}{more}")

    def _explain(self, group: int, rows: Rows) -> tuple[str, bool]:
        """Return the cause of a skipped step, and whether to report it."""
        known = [row for row in rows.tolist() if (group, row) in self._named]
        if not self._alerts_left:
            return self._names(group, known or rows.tolist()), False
        if not are_finite(self._components.model):
            cause = "the model's weights are not finite"
            return cause, self._unexplained.add(cause)
        try:
            found = find_culprits(
                self._components.model,
                self._loss_fn,
                lambda part: self._load(group, part),
                rows[~np.isin(rows, known)],
                limit=MAX_NAMED,
                parts=self._micro_batches,
            )
        except Exception as error:  # noqa: BLE001 - such as too little memory; training must continue
            why = f"the search for the cause failed ({format_error(error)})"
        else:
            why = "no structure alone is the cause"
            if found:
                self._named.update((group, row) for row in found)
                return self._describe(group, [*found, *known], rows, is_new=True)
        if known:
            return self._describe(group, known, rows, is_new=False)
        return f"{why}; the batch consists of {self._names(group, rows.tolist())}", self._unexplained.add(why)

    def _describe(self, group: int, bad: Sequence[int], rows: Rows, *, is_new: bool) -> tuple[str, bool]:
        """Return the structures that are the cause; if they are most of the batch, the weights are suspicious too."""
        names = self._names(group, bad)
        if len(rows) == 1 or len(bad) < min(len(rows), MAX_NAMED):
            return names, is_new
        count = f"all {len(rows)}" if len(bad) == len(rows) else f"{len(bad)} or more of the {len(rows)}"
        hint = "unless they are all wrong, the weights have become too large: lower the learning rate"
        return f"{count} structures of the batch ({hint}): {names}", self._unexplained.add(hint)

    def _load(self, group: int, rows: Rows) -> Batch:
        components = self._components
        keys = [label.name for label in components.labels]
        return to_device(load_rows(components.data.train, group, rows, x=INPUTS, y=keys), components.device)

    def _names(self, group: int, rows: Sequence[int]) -> str:
        """Return file, group and row of structures."""
        data = self._components.data
        first = np.array(rows[:MAX_NAMED], np.int64)
        names = data.locate(data.train[group].read(first, ["origin"])["origin"])
        more = len(rows) - MAX_NAMED
        return "; ".join(names) + (f"; and {more} more" if more > 0 else "")
