"""Run the ``telemetry`` command as ``python -m telemetry``."""

from telemetry.cli import main

main(prog_name="telemetry")
