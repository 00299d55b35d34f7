"""Settings of trainings that record numbers only, so that tests can compare whole journals, and are quick."""

PLAIN = ("record_setup=false", "log_frequency.plots=0", "telemetry.system=0")
