"""The built-in sinks, registered like any other by entry points in the group ``telemetry.sinks``."""
