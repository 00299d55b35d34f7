"""The API for sinks: hooks, records, errors and helpers.

>>> from telemetry.sink_api import Opened, hookimpl
"""

from telemetry.display.grouping import DETAILS, OVERALL, PROGRESS, Chart, charts
from telemetry.errors import (
    SettingError,
    SinkRejected,
    SinkUnavailable,
    TelemetryError,
    backend_errors,
    format_error,
)
from telemetry.metrics import SYSTEM, VALIDATION, Metric, stream_of
from telemetry.plugins.destinations import is_inside
from telemetry.plugins.hookspecs import Opened, hookimpl
from telemetry.plugins.optional_imports import is_installed
from telemetry.reading.stream_points import read_history
from telemetry.records import (
    Alert,
    Artifact,
    Blob,
    Closed,
    Histogram,
    Image,
    Media,
    Record,
    Resumed,
    RunRecord,
    RunUpdate,
    Scalars,
    Status,
    Table,
    Text,
    updated,
)
from telemetry.redaction import redact
from telemetry.run_folder.atomic_write import atomic_write, private_opener, remove_temporary_files, sync_folder
from telemetry.run_folder.blobs import read_blob, verified_blob
from telemetry.run_folder.media_contents import Cell, TableContent, read_table, read_text
from telemetry.run_folder.paths import local_path
from telemetry.run_folder.permissions import file_mode
from telemetry.units import with_unit

__all__ = [
    "DETAILS",
    "OVERALL",
    "PROGRESS",
    "SYSTEM",
    "VALIDATION",
    "Alert",
    "Artifact",
    "Blob",
    "Cell",
    "Chart",
    "Closed",
    "Histogram",
    "Image",
    "Media",
    "Metric",
    "Opened",
    "Record",
    "Resumed",
    "RunRecord",
    "RunUpdate",
    "Scalars",
    "SettingError",
    "SinkRejected",
    "SinkUnavailable",
    "Status",
    "Table",
    "TableContent",
    "TelemetryError",
    "Text",
    "atomic_write",
    "backend_errors",
    "charts",
    "file_mode",
    "format_error",
    "hookimpl",
    "is_inside",
    "is_installed",
    "local_path",
    "private_opener",
    "read_blob",
    "read_history",
    "read_table",
    "read_text",
    "redact",
    "remove_temporary_files",
    "stream_of",
    "sync_folder",
    "updated",
    "verified_blob",
    "with_unit",
]
