"""Telemetry for training runs: a durable journal, and sinks that follow it.

>>> from telemetry import Metric, open_run

The names that sink authors need are in ``telemetry.sink_api``.
"""

from telemetry.alerts.detector import Divergence
from telemetry.delivery.receipt import Receipt, read_receipt
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
    TelemetryError,
    UnitError,
)
from telemetry.journal.reader import read_header
from telemetry.metrics import Metric
from telemetry.reading.curve import Curve
from telemetry.reading.run import Run, read_run
from telemetry.recording.bus import MetricBus
from telemetry.recording.null_bus import NullBus
from telemetry.recording.numbers import is_number
from telemetry.recording.open_run import open_run
from telemetry.records import Alert, RunRecord, Status
from telemetry.settings import Settings

# Sinks written for version 0.1 import the following names from here.
from telemetry.sink_api import Chart as Chart
from telemetry.sink_api import Closed as Closed
from telemetry.sink_api import Opened as Opened
from telemetry.sink_api import Record as Record
from telemetry.sink_api import Resumed as Resumed
from telemetry.sink_api import Scalars as Scalars
from telemetry.sink_api import SinkRejected as SinkRejected
from telemetry.sink_api import SinkUnavailable as SinkUnavailable
from telemetry.sink_api import backend_errors as backend_errors
from telemetry.sink_api import charts as charts
from telemetry.sink_api import hookimpl as hookimpl
from telemetry.sink_api import private_opener
from telemetry.sink_api import with_unit as with_unit

private = private_opener

__all__ = [
    "Alert",
    "Curve",
    "Divergence",
    "JournalError",
    "LeaseHeld",
    "Metric",
    "MetricBus",
    "MetricNotDeclared",
    "MetricNotFound",
    "NullBus",
    "PackageNotInstalled",
    "PluginError",
    "Receipt",
    "Run",
    "RunAlive",
    "RunExists",
    "RunFolderError",
    "RunNotFound",
    "RunRecord",
    "SettingError",
    "Settings",
    "SinkNotFound",
    "SinkNotInstalled",
    "Status",
    "TelemetryError",
    "UnitError",
    "is_number",
    "open_run",
    "read_header",
    "read_receipt",
    "read_run",
]
