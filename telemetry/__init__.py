"""Telemetry for training runs: a durable journal, and sinks that follow it.

>>> from telemetry import Metric, open_run
"""

from telemetry.alerts.detector import Divergence
from telemetry.delivery.receipt import Receipt, read_receipt
from telemetry.display.grouping import Chart, charts
from telemetry.errors import (
    JournalError,
    LeaseHeld,
    MetricNotDeclared,
    MetricNotFound,
    PackageNotInstalled,
    PluginError,
    RunAlive,
    RunExists,
    RunFolderError,
    RunNotFound,
    SettingError,
    SinkNotFound,
    SinkNotInstalled,
    SinkRejected,
    SinkUnavailable,
    TelemetryError,
    UnitError,
    backend_errors,
)
from telemetry.journal.reader import read_header
from telemetry.metrics import Metric
from telemetry.plugins.hookspecs import Opened, hookimpl
from telemetry.reading.curve import Curve
from telemetry.reading.run import Run, read_run
from telemetry.recording.bus import MetricBus
from telemetry.recording.null_bus import NullBus
from telemetry.recording.open_run import open_run
from telemetry.records import Alert, Closed, Record, Resumed, RunRecord, Scalars, Status
from telemetry.run_folder.atomic_write import private
from telemetry.settings import Settings
from telemetry.units import with_unit

__all__ = [
    "Alert",
    "Chart",
    "Closed",
    "Curve",
    "Divergence",
    "JournalError",
    "LeaseHeld",
    "Metric",
    "MetricBus",
    "MetricNotDeclared",
    "MetricNotFound",
    "NullBus",
    "Opened",
    "PackageNotInstalled",
    "PluginError",
    "Receipt",
    "Record",
    "Resumed",
    "Run",
    "RunAlive",
    "RunExists",
    "RunFolderError",
    "RunNotFound",
    "RunRecord",
    "Scalars",
    "SettingError",
    "Settings",
    "SinkNotFound",
    "SinkNotInstalled",
    "SinkRejected",
    "SinkUnavailable",
    "Status",
    "TelemetryError",
    "UnitError",
    "backend_errors",
    "charts",
    "hookimpl",
    "open_run",
    "private",
    "read_header",
    "read_receipt",
    "read_run",
    "with_unit",
]
