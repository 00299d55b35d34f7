"""The README matches the command line."""

import re
from pathlib import Path

from aimnet2mult.cli import cli

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_lists_exactly_the_flags_of_train() -> None:
    text = README.read_text(encoding="utf-8")
    table = re.findall(r"^\| `(--[a-z-]+)[ `]", text, re.MULTILINE)
    options = {name for parameter in cli.commands["train"].params for name in parameter.opts if name.startswith("--")}
    assert sorted(table) == sorted(options - {"--help"})


def test_every_command_in_the_readme_exists() -> None:
    from telemetry.cli import main

    text = README.read_text(encoding="utf-8")
    used = set(re.findall(r"^(?:\| `)?(aimnet2mult|telemetry) ([a-z-]+)", text, re.MULTILINE))
    known = {("aimnet2mult", name) for name in cli.commands} | {("telemetry", name) for name in main.commands}
    assert used
    assert used <= known
