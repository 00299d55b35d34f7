"""The test class that sink authors subclass."""

from __future__ import annotations

from telemetry.testing.content_checks import ContentChecks
from telemetry.testing.fault_checks import FaultChecks
from telemetry.testing.media_checks import MediaChecks
from telemetry.testing.plugin_checks import PluginChecks
from telemetry.testing.restart_checks import RestartChecks


# ContentChecks is last: pytest runs the last base class first, so no general defect is mistaken for a mishandled fault.
class SinkContract(PluginChecks, FaultChecks, MediaChecks, RestartChecks, ContentChecks):
    """The contract of a sink; see ``telemetry.testing.kit.Kit`` for the methods and attributes to define.

    Examples:
        >>> class TestMine(SinkContract):
        ...     def make_sink(self, folder):
        ...         return MySink(MySink.Options())
        ...
        ...     def read_back(self, folder):
        ...         return [Point(...) for ... in ...]
    """
