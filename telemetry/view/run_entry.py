"""One run as the live page lists it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from telemetry.delivery.receipt import SinkReceipt
from telemetry.metrics import Metric
from telemetry.reading.best_value import BestValue
from telemetry.records import Alert, Media, RunRecord
from telemetry.run_folder.run_status import RunStatus
from telemetry.run_folder.sink_progress import SinkState as DeliveryState


@dataclass(frozen=True, kw_only=True)
class SinkState:
    """The delivery to one sink, as ``telemetry status`` shows it.

    Attributes:
        name: name of the sink.
        state: state of the delivery.
        delivered: number of records accepted by the sink.
        pending: number of journaled records that the sink has neither accepted nor rejected.
        is_behind: whether records are pending, or may be.
        error: message of the last failure, if the sink is still retrying or has rejected records; otherwise empty.
        view: the URL or command that shows the run there.
    """

    name: str
    state: DeliveryState
    delivered: int
    pending: int
    is_behind: bool
    error: str
    view: str

    @classmethod
    def from_receipt(cls, receipt: SinkReceipt) -> SinkState:
        """Return the state of a sink according to its receipt."""
        progress = receipt.progress
        failing = progress.state in {"retrying", "refused"} or progress.cursor.rejected > 0
        return cls(
            name=receipt.name,
            state=progress.state,
            delivered=receipt.delivered,
            pending=receipt.pending,
            is_behind=receipt.is_behind,
            error=progress.last_error if failing else "",
            view=progress.view,
        )


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A run as one line of the page's table.

    Attributes:
        key: identifies the run in URLs; the same whenever the page is started.
        label: unique label for people (see ``run_labels``).
        folder: the run folder.
        header: the newest attempt's run record.
        metrics: the metrics that any attempt declared, by full name; if none did, those that have points.
        status: status of the run.
        step: the last iteration that has a point; 0 if there is none.
        time: time of the last record, in milliseconds since 1970; start of the run if there is none.
        best: the best validation value of each main metric that has a direction, by full name.
        alerts: alerts in journal order.
        media: images, tables, texts, histograms and artifacts in journal order.
        sinks: the sinks of the run, past and present.
        error: why the run cannot be read; empty if it can. The other attributes are those of the last reading.
    """

    key: str
    label: str
    folder: Path
    header: RunRecord
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    status: RunStatus = "unseen"
    step: int = 0
    time: int = 0
    best: Mapping[str, BestValue] = field(default_factory=dict)
    alerts: Sequence[Alert] = ()
    media: Sequence[Media] = ()
    sinks: Sequence[SinkState] = ()
    error: str = ""
