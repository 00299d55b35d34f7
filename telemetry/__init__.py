"""Telemetry for training runs: a durable journal, and sinks that follow it.

>>> from telemetry import Metric, open_run
"""

from telemetry.bus import MetricBus
from telemetry.chart import Chart, charts, with_unit
from telemetry.curve import Curve
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
from telemetry.files import private
from telemetry.hookspecs import Opened, hookimpl
from telemetry.nullbus import NullBus
from telemetry.reader import read_header
from telemetry.receipt import Receipt, read_receipt
from telemetry.records import Alert, Closed, Metric, Record, Resumed, RunRecord, Scalars, Status
from telemetry.run import Run, read_run
from telemetry.session import open_run
from telemetry.settings import Settings
from telemetry.watch import Divergence

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
