"""Telemetry for trainers of other frameworks. `import telemetry` loads none of these modules or their frameworks."""
