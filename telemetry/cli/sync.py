"""``telemetry sync``: deliver a run to sinks, from this process."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import click
import msgspec

from telemetry.cli.console import exits_with_message, say_skipped, show_sinks
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.delivery.receipt import read_receipt
from telemetry.errors import RunFolderError, SettingError, TelemetryError
from telemetry.journal.reader import read_header
from telemetry.plugins.registry import Sink, select
from telemetry.recording.redaction import REDACTED
from telemetry.settings import Settings, parse_sinks

BEHIND = 1
"""Exit code of ``sync`` when something could not be delivered."""
DONE = {DeliveryOutcome.COMPLETE, DeliveryOutcome.CAUGHT_UP}
HUNG = 75
"""Exit code of ``sync`` when a sink does not return from a hook."""


@click.command()
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
    show_sinks(summary, *wanted)
    say_skipped(summary.skipped)
    if any(job.end not in DONE for job in jobs):
        sys.exit(BEHIND)


class _Job:
    """One sink's delivery in ``sync``, in a thread."""

    def __init__(self, run: Path, sink: Sink, settings: Settings, *, follow: bool) -> None:
        self.name = sink.name
        self.end: DeliveryOutcome | None = None
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
            log=lambda line: click.echo(line, err=True),
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
