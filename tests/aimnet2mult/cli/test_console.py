"""Errors that the trainer prints cannot control the terminal and contain no credentials."""

from __future__ import annotations

import json
from pathlib import Path

import click
import h5py
import pytest
from click.testing import CliRunner

from aimnet2mult.cli import cli
from aimnet2mult.cli.console import run

HOSTILE = "\x1b[2J\x1b]52;c;cm0=\x07\r\u202e\u2028"


def test_the_trainer_prints_errors_printably(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def fails() -> None:
        msg = f"first {HOSTILE}\n  second https://me:hunter2@host"
        raise click.ClickException(msg)

    with pytest.raises(SystemExit) as exited:
        run(fails, "fails", [])
    err = capsys.readouterr().err
    assert exited.value.code == 2
    assert all(line.isprintable() for line in err.split("\n"))
    assert err.endswith("\n  second https://***@host\n")


def test_names_in_data_files_are_printed_printably(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group(f"group {HOSTILE}")["coord"] = [[[0.0, 0.0, 0.0]]]
    shown = CliRunner().invoke(cli, ["check-data", str(path)])
    assert shown.exit_code == 1
    assert "group" in shown.output
    assert all(line.isprintable() for line in shown.output.split("\n"))
    as_json = CliRunner().invoke(cli, ["check-data", "--json", str(path)])
    assert as_json.output.isascii()
    assert "cm0=" in json.loads(as_json.output)["errors"][0]
