"""For authors of sinks: the contract that a sink has to keep, as a test class, and sinks that behave in known ways.

It needs pytest, which the extra ``testing`` brings.
"""

import pytest

# Before they are imported: their failures are to be as telling as those of a test.
pytest.register_assert_rewrite(
    *(
        f"telemetry.testing.{name}"
        for name in ("kit", "content_checks", "restart_checks", "fault_checks", "plugin_checks")
    )
)

from telemetry.testing.contract import SinkContract  # noqa: E402
from telemetry.testing.fakes import FlakySink, HungSink, RecordingSink, SlowSink  # noqa: E402
from telemetry.testing.points import Point, resumed, run_record, scalars  # noqa: E402

__all__ = [
    "FlakySink",
    "HungSink",
    "Point",
    "RecordingSink",
    "SinkContract",
    "SlowSink",
    "resumed",
    "run_record",
    "scalars",
]
