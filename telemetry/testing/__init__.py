"""Test helpers for sink authors: the contract of a sink as a test class, and sinks with known behavior.

Requires pytest; install the extra ``testing``.
"""

import pytest

# Register before importing these modules, so that their assertions show values as those in test modules do.
pytest.register_assert_rewrite(
    *(
        f"telemetry.testing.{name}"
        for name in (
            "kit",
            "content_checks",
            "media_checks",
            "restart_checks",
            "fault_checks",
            "plugin_checks",
            "rehearsal",
        )
    )
)

from telemetry.testing.fakes import FlakySink, HungSink, RecordingSink, SlowSink  # noqa: E402
from telemetry.testing.media import MediaItem, media_sample  # noqa: E402
from telemetry.testing.points import Point, resumed, run_record, scalars  # noqa: E402
from telemetry.testing.sink_contract import SinkContract  # noqa: E402

__all__ = [
    "FlakySink",
    "HungSink",
    "MediaItem",
    "Point",
    "RecordingSink",
    "SinkContract",
    "SlowSink",
    "media_sample",
    "resumed",
    "run_record",
    "scalars",
]
