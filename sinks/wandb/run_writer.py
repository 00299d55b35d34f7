"""Pass the records of one run to wandb as rows and alerts, and finish the W&B run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sinks._best_values import PREFIX, BestValues, is_validation
from sinks.wandb.destinations import Destination
from sinks.wandb.media import MediaRows, ShownMedia
from sinks.wandb.metric_definitions import check_names
from sinks.wandb.stored_run import (
    ATTEMPT_KEY,
    ITERATION_KEY,
    LAST_ALERT_KEY,
    REASON_KEY,
    SEQ_KEY,
    STATUS_KEY,
    StoredRun,
)
from telemetry.sink_api import Alert, Record, Resumed, Scalars, Status

_EXIT_CODES: dict[str, int] = {"finished": 0, "failed": 1, "preempted": 143, "killed": 137}
"""W&B displays 0 as finished, and other codes as failed, or as preempted if the run was marked as preempting."""
_ALERT_LEVELS = {"info": "INFO", "warning": "WARN", "error": "ERROR"}
_MAX_ALERT_TITLE_LENGTH = 63
_ALERT_INTERVAL = 0.001
"""Seconds between alerts with the same title; by default, W&B drops further ones for a minute."""


class RunWriter:
    """A writer that passes each record of one run to wandb once, and reports which records are durably stored.

    The W&B run is opened by the first write, so that an instance without new records leaves W&B unchanged.

    Args:
        open_run: function that calls ``wandb.init`` and returns the open run.
        destination: storage for the rows, already inspected.
        stored: the result of ``destination.inspect``.
        best: the best validation values, which are part of the rows of validation: the summary contains the newest.
        media: the rows of media.

    Attributes:
        run: the W&B run; None if it is not open.
        media: the rows of media.
    """

    def __init__(
        self,
        open_run: Callable[[], Any],
        destination: Destination,
        stored: StoredRun,
        best: BestValues,
        media: MediaRows,
    ) -> None:
        self.run: Any = None
        self.media = media
        self._open_run = open_run
        self._destination = destination
        self._best = best
        self._stored_seq = stored.last_seq
        self._final_status = stored.status
        self._accepted_seq = stored.last_seq or 0
        self._last_alert = stored.last_alert
        self._attempt = stored.attempt
        self._next_step = stored.next_step

    def write(self, records: Sequence[Record]) -> int | None:
        """Pass the new records to wandb.

        Raises:
            SinkRejected: W&B cannot show a record; those before it have been passed.

        Returns:
            The highest sequence number that is durably stored, or None if unknown: wandb may still have later rows in
            memory.
        """
        new_rows = sum(
            isinstance(record, Scalars | ShownMedia) and record.seq > self._accepted_seq for record in records
        )
        if new_rows:
            self._opened()
            self._destination.expect_rows(self._next_step + new_rows, self._attempt)
        for record in records:
            self._best.add(record)
            if isinstance(record, Scalars | ShownMedia):
                self._log_row(record)
            elif isinstance(record, Resumed):
                self._attempt = record.attempt
            elif isinstance(record, Alert):
                self._send_alert(record)
        return self._stored_seq if self.run is None else self._destination.confirmed_seq(self._accepted_seq)

    def finish(self, status: Status, reason: str) -> None:
        """Finish the W&B run and wait until it is stored completely; do nothing if it already has this status."""
        if self.run is None and self._final_status == status:
            return
        run = self._opened()
        # Raises if the destination accepts no further rows, because the end of the run would be lost as well.
        self._destination.confirmed_seq(self._accepted_seq)
        end = {STATUS_KEY: status, REASON_KEY: reason, LAST_ALERT_KEY: self._last_alert}
        # A resume may have superseded the values of the last row.
        run.summary.update(end | self._best_values())
        if status == "preempted":
            run.mark_preempting()
        run.finish(exit_code=_EXIT_CODES[status])
        self._destination.wait_stored(self._accepted_seq, status)
        self.run = None
        self._stored_seq, self._final_status = self._accepted_seq, status

    def _opened(self) -> Any:
        if self.run is None:
            run = self._open_run()
            self._destination.run_opened(Path(run.dir).parent)
            self._next_step = max(self._next_step, run.starting_step)
            self.run = run
        return self.run

    def _log_row(self, record: Scalars | ShownMedia) -> None:
        if record.seq <= self._accepted_seq:
            return
        run = self._opened()
        row = self._values(record) if isinstance(record, Scalars) else self.media.row(run, record)
        check_names(row)
        row |= {
            ITERATION_KEY: record.step,
            SEQ_KEY: record.seq,
            ATTEMPT_KEY: self._attempt,
            "_timestamp": record.time / 1000,
        }
        # The step counts rows and never decreases: wandb would drop a row with a lower one.
        run.log(row, step=self._next_step, commit=True)
        self._next_step += 1
        self._accepted_seq = record.seq

    def _values(self, record: Scalars) -> dict[str, Any]:
        return dict(record.items()) | (self._best_values() if is_validation(record) else {})

    def _best_values(self) -> dict[str, float]:
        return {f"{PREFIX}{name}": best.value for name, best in self._best.current().items()}

    def _send_alert(self, record: Alert) -> None:
        # Alerts are not rows, so the alerts after the last row of a run are delivered again each time.
        if record.seq <= self._last_alert:
            return
        self._opened().alert(
            title=record.title[:_MAX_ALERT_TITLE_LENGTH],
            text=f"iteration {record.step}: {record.title}\n{record.text}".strip(),
            level=_ALERT_LEVELS[record.level],
            wait_duration=_ALERT_INTERVAL,
        )
        self._last_alert = record.seq
