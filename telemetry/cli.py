"""The ``telemetry`` command."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any

import click
import msgspec

from telemetry.alive import TrainerWatch, read_alive
from telemetry.console import exits_with_message, say, say_skipped
from telemetry.delivery import Delivery, End
from telemetry.errors import RunFolderError, SettingError, TelemetryError
from telemetry.looking import export, list_runs, show
from telemetry.plugins import Plugin, Sink, install_command, installed, load, select, type_name
from telemetry.reader import read_header
from telemetry.receipt import Receipt, read_receipt
from telemetry.redact import REDACTED
from telemetry.screen import STANDING
from telemetry.settings import Settings, parse_sinks
from telemetry.state import state

BEHIND = 1
"""Exit code of ``sync`` when something could not be delivered."""
DONE = {End.COMPLETE, End.CAUGHT_UP}
HUNG = 75
"""Exit code of ``sync`` when a sink does not return from a hook."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aimnet2mult", prog_name="telemetry")
def main() -> None:
    """Look after the telemetry of training runs."""


@main.command()
def sinks() -> None:
    """List the installed sinks, their options, and what they lack."""
    for name in installed():
        try:
            lines = _describe(load(name))
        except (TelemetryError, OSError) as error:
            lines = [f"{name}  BROKEN: {error}"]
        for line in lines:
            say(line)


def _describe(plugin: Plugin) -> list[str]:
    missing = plugin.missing()
    if not missing:
        # A sink that does not fit is to show here, and not when somebody trains with it.
        with contextlib.suppress(SettingError):  # it has options that must be given
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


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--telemetry-sinks",
    "names",
    metavar="NAME,...",
    help="Sinks to deliver to; without it those that the run was trained with.",
)
@click.option("--follow", is_flag=True, help="Go on until the run has ended.")
@click.option(
    "-o",
    "--option",
    "options",
    multiple=True,
    metavar="SINK.NAME=VALUE",
    help='An option of a sink in use; repeatable. VALUE is JSON, as in 3 or \'["a","b"]\', else a text.',
)
@click.option("--linger", type=float, default=600.0, show_default=True, help="Seconds to try a failing sink.")
@exits_with_message
def sync(run: Path, names: str | None, follow: bool, options: tuple[str, ...], linger: float) -> None:
    """Deliver RUN (a run folder; finished, crashed or still running) to sinks, each record once.

    Options default to those the run was trained with. Several sinks are delivered to side by side.
    """
    header = read_header(run)
    trained_with = {
        name: {key: value for key, value in given.items() if value != REDACTED} for name, given in header.sinks.items()
    }
    wanted = tuple(header.sinks) if names is None else parse_sinks(names)
    if not wanted:
        msg = "name a sink to deliver to with --telemetry-sinks (see `telemetry sinks`)"
        raise SettingError(msg)
    chosen = select(wanted, _merge(trained_with, options, wanted))
    jobs = [_Job(run, sink, Settings.parse({"linger": linger}), follow=follow) for sink in chosen]
    _acquire_all(jobs, run)
    _run_all(jobs)
    summary = read_receipt(run)
    _show_sinks(summary, *wanted)
    say_skipped(summary.skipped)
    if any(job.end not in DONE for job in jobs):
        sys.exit(BEHIND)


class _Job:
    """One sink's delivery in ``sync``, in a thread."""

    def __init__(self, run: Path, sink: Sink, settings: Settings, *, follow: bool) -> None:
        self.name = sink.name
        self.end: End | None = None
        self.stop = threading.Event()
        # Until Python 3.13, a join that Ctrl-C interrupts takes the thread for ended.
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.delivery = Delivery(
            run,
            sink,
            settings,
            follow=follow,
            wait=self._wait,
            stop=self.stop.is_set,
            on_hang=lambda: _hung(sink.name, settings.hook_timeout),
            say=lambda line: click.echo(line, err=True),
        )

    def _run(self) -> None:
        try:
            self.end = self.delivery.run()
            if self.end not in DONE:
                click.echo(f"{self.name}: {self.end.value}", err=True)
        except (OSError, TelemetryError) as error:
            click.echo(f"error: {error}", err=True)
        finally:
            self.done.set()

    def _wait(self, seconds: float) -> None:
        self.stop.wait(seconds)


def _acquire_all(jobs: list[_Job], run: Path) -> None:
    try:
        for job in jobs:
            job.delivery.lease.acquire()
    except OSError as error:
        msg = f"{run} cannot be written to ({error.strerror or error}): who delivers, and how far, is kept there"
        raise RunFolderError(msg) from error


def _run_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.thread.start()
    try:
        for job in jobs:
            job.done.wait()
    except KeyboardInterrupt:
        click.echo("stopping; the same command delivers what is left", err=True)
        for job in jobs:
            job.stop.set()
        for job in jobs:
            job.done.wait()


def _hung(name: str, seconds: float) -> None:
    click.echo(f"error: {name} has not returned from a hook for {seconds:.0f} s", err=True)
    # A thread that hangs inside an SDK cannot be ended in any other way.
    os._exit(HUNG)


def _merge(
    known: dict[str, dict[str, Any]], given: tuple[str, ...], wanted: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    options = {name: dict(values) for name, values in known.items()}
    for text in given:
        key, equals, value = text.partition("=")
        sink, dot, name = key.partition(".")
        if not (equals and dot and sink and name):
            msg = f"--option {text!r}: write it as SINK.NAME=VALUE, as in tensorboard.dir=/scratch/tb"
            raise SettingError(msg)
        if sink not in wanted:
            msg = f"--option {text!r}: {sink!r} is not delivered to; name it in --telemetry-sinks, or leave it out"
            raise SettingError(msg)
        options.setdefault(sink, {})[name] = _parse_value(value)
    return options


def _parse_value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@exits_with_message
def status(run: Path) -> None:
    """Say how RUN (a run folder) stands, and how far each sink has got."""
    header = read_header(run)
    summary = read_receipt(run)
    alive = read_alive(run)
    say(f"{header.name} ({header.run_id}), attempt {header.attempt}: {_state(run, summary)}")
    if alive is not None:
        say(f"trainer: {alive.trainer}{', which has ended' if summary.status else ''}")
    click.echo(f"last point at iteration {summary.step}; {summary.journaled} records in the journal")
    if summary.counts.offered != summary.counts.journaled:
        counts = summary.counts
        click.echo(f"this attempt: {counts.offered} offered, {counts.journaled} journaled, {counts.lost} lost")
    _show_sinks(summary)
    say_skipped(summary.skipped)


def _state(run: Path, summary: Receipt) -> str:
    how = state(summary.status, TrainerWatch(run))
    return STANDING.get(how, how) + (f" ({summary.reason})" if summary.reason else "")


def _show_sinks(summary: Receipt, *names: str) -> None:
    """Print how the sinks of these names stand, or all of them, and what delivers the rest."""
    known = {sink.name: sink.lines() for sink in summary.sinks}
    for name in names or known:
        for line in known.get(name, [f"{name}: how far it has got could not be kept"]):
            say(line)
    for line in summary.cure(*names):
        say(line)


for command in (show, export, list_runs):
    main.add_command(command)
