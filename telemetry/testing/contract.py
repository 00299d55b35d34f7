"""The test class that the author of a sink subclasses."""

from __future__ import annotations

from telemetry.testing.content_checks import ContentChecks
from telemetry.testing.fault_checks import FaultChecks
from telemetry.testing.plugin_checks import PluginChecks
from telemetry.testing.restart_checks import RestartChecks


# pytest runs the checks of the last base first: what is wrong with all points shows there, and not as a fault's result.
class SinkContract(PluginChecks, FaultChecks, RestartChecks, ContentChecks):
    """All that telemetry asks of a sink; see ``telemetry.testing.kit.Kit`` for what can be declared.

    Examples:
        >>> class TestMine(SinkContract):
        ...     def make_sink(self, folder):
        ...         return MySink(MySink.Options())
        ...
        ...     def read_back(self, folder):
        ...         return [Point(...) for ... in ...]
    """
