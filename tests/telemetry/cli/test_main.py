"""The ``telemetry`` command as a whole: its subcommands, imports and errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("pint", "torch", "tensorboard", "numpy", "wandb", "mlflow", "ignite", "matplotlib", "plotext", "pandas")


def test_the_module_runs_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "telemetry", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("Usage: telemetry ")
    for name in ("export", "list", "show", "sinks", "status", "sync"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["sync"],
        ["sync", "x", "--telemetry-sinks", "fil"],
        ["status", "nowhere"],
        ["show", "nowhere"],
        ["export", "nowhere"],
        ["list", "nowhere"],
        ["nonesuch"],
    ],
)
def test_help_and_usage_errors_import_no_heavy_package(args: list[str]) -> None:
    code = f"""
import sys
from telemetry.cli import main
try:
    main({args!r}, prog_name="telemetry")
except SystemExit as end:
    code = end.code
print([name for name in {HEAVY!r} if name in sys.modules], code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == f"[] {0 if args == ['--help'] else 2}"
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line_on_stderr_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "telemetry", "status", "/no/such/run"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: no run in /no/such/run: there is no such folder\n"
