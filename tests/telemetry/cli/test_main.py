"""The ``telemetry`` command as a whole: its subcommands, imports and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.written_runs import WrittenRun
from telemetry.cli import main

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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["stauts"], "no such command 'stauts'. Did you mean 'status'? See: telemetry --help"),
        (["nonesuch"], "no such command 'nonesuch'. See: telemetry --help"),
        (
            ["show", "RUN", "--metrc", "x"],
            "no such option '--metrc'. Did you mean '--metric'? See: telemetry show --help",
        ),
        (["status"], "missing argument 'RUN'. See: telemetry status --help"),
        (["sinks", "extra"], "got unexpected extra argument (extra). See: telemetry sinks --help"),
        (["show", "RUN", "--width", "3"], "invalid value for '--width': 3 is not in the range x>=20."),
        (["export", "RUN", "--format", "xml"], "invalid value for '--format': 'xml' is not one of 'csv', 'jsonl'."),
    ],
)
def test_a_usage_error_is_one_line_with_a_hint(tmp_path: Path, args: list[str], message: str) -> None:
    run = str(WrittenRun(tmp_path / "run").folder)
    result = CliRunner().invoke(main, [run if arg == "RUN" else arg for arg in args], prog_name="telemetry")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {message}\n"


@pytest.mark.parametrize("command", ["status", "export", "show"])
def test_a_run_is_given_by_its_id_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    run = WrittenRun(tmp_path / "runs" / "water-20261127-093000", name="water")
    monkeypatch.chdir(tmp_path)
    for name in ("water", "water-20261127-093000", "wat", run.folder):
        result = CliRunner().invoke(main, [command, str(name)])
        assert (result.exit_code, result.stderr) == (0, "")


def test_show_lists_the_runs_of_a_folder(tmp_path: Path) -> None:
    for name in ("a run", "b"):
        WrittenRun(tmp_path / name)
    lines = CliRunner().invoke(main, ["show", str(tmp_path)]).stdout.splitlines()
    assert [line.partition("  ")[0] for line in lines[1:3]] == ["a run", "b"]
    assert lines[-1] == f"show a run: telemetry show '{tmp_path}/a run'"


def test_output_that_cannot_be_written_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    run = WrittenRun(tmp_path / "run")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "telemetry", "status", str(run.folder)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")
