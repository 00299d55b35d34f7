"""Telemetry for trainers of other frameworks. ``import telemetry`` imports neither these modules nor the frameworks."""
