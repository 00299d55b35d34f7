"""``telemetry sinks``: list the installed sinks, their options and missing packages."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import click

from telemetry.cli.console import print_line
from telemetry.errors import SettingError, TelemetryError
from telemetry.plugins.registry import Plugin, Sink, install_command, installed, load, type_name


@click.command()
def sinks() -> None:
    """List the installed sinks, their options and missing packages."""
    for name in installed():
        try:
            lines = _describe(load(name))
        except (TelemetryError, OSError) as error:
            lines = [f"{name}  BROKEN: {error}"]
        for line in lines:
            print_line(line)


def _describe(plugin: Plugin) -> list[str]:
    missing = plugin.missing()
    if not missing:
        # Report an invalid plugin here rather than when training starts.
        with contextlib.suppress(SettingError):  # some options have no default
            Sink(plugin.name, {}, plugin).create()
    state = f"not installed: {install_command(plugin)}" if missing else "installed"
    options = [
        f"    telemetry.{plugin.name}.{name}: {type_name(field)}{_default(field)}"
        for name, field in plugin.option_types().items()
    ]
    return [f"{plugin.name}  ({plugin.package})  {state}", *options]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    return "" if field.default_factory is dataclasses.MISSING else f" = {field.default_factory()!r}"
