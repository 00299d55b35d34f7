"""The built-in sinks. Each is registered by an entry point in ``telemetry.sinks``, as anybody's is."""
