"""Telemetry for trainers of other frameworks: each module needs its framework, and `import telemetry` loads none."""
