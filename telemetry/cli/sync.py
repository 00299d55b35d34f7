"""``telemetry sync``: deliver a run to sinks from this process.

``deliver`` first acquires the lease of every sink, so if another process already delivers to one of them, nothing is
delivered at all. Then one thread per sink runs a ``Delivery``, which renews and releases the lease, saves its progress
and retries. Exit codes: 0 if every sink has all records, 1 if not, 2 for an error before delivery starts, 75 if a sink
hangs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from telemetry.cli.console import EXIT_USAGE, RUN, exits_with_message, print_line, print_sinks, print_skipped
from telemetry.delivery.delivery import Delivery, DeliveryOutcome
from telemetry.delivery.log_stream import LogStream, append_to
from telemetry.delivery.receipt import read_receipt
from telemetry.delivery.sink_notices import Notice, SinkNotices
from telemetry.delivery.worker_protocol import STOP_SIGNALS
from telemetry.errors import RunFolderError, SettingError, TelemetryError
from telemetry.journal.reader import read_header
from telemetry.plugins.destinations import unconfirmed
from telemetry.plugins.registry import Sink, select
from telemetry.run_folder.paths import log_path
from telemetry.run_folder.permissions import umask_of
from telemetry.settings import Settings, parse_sinks

EXIT_INCOMPLETE = 1
"""Exit code if some records could not be delivered."""
EXIT_HUNG = 75
"""Exit code if a sink does not return from a hook."""
NOTICE_INTERVAL = 1.0
"""Seconds between looks at the state of the sinks."""
DELIVERED = {DeliveryOutcome.COMPLETE, DeliveryOutcome.CAUGHT_UP}


@click.command()
@click.argument("run", type=RUN)
@click.option(
    "--telemetry-sinks",
    "names",
    metavar="NAME,...",
    help="Sinks to deliver to; by default those the run was trained with.",
)
@click.option("--follow", is_flag=True, help="Continue until the run has ended.")
@click.option(
    "-o",
    "--option",
    "assignments",
    multiple=True,
    metavar="SINK.NAME=VALUE",
    help='Set an option of a sink; repeatable. VALUE is JSON, such as 3 or \'["a","b"]\', or else a string.',
)
@click.option(
    "--linger",
    metavar="SECONDS",
    type=float,
    default=600.0,
    show_default=True,
    help="Seconds to keep retrying while a sink fails.",
)
@exits_with_message
def sync(run: Path, names: str | None, follow: bool, assignments: tuple[str, ...], linger: float) -> None:
    """Deliver a run to sinks, each record exactly once.

    RUN is the folder of a finished, crashed or running run, or its ID or name in ./runs. Sink options default to those
    the run was trained with, except for credentials, which come from the environment (TELEMETRY_<SINK>_<OPTION>).
    Destinations that only the run folder names must be confirmed with -o before credentials are sent there, or files
    outside RUN are written. Delivers to all sinks in parallel.

    The exit code is 0 if all records have been delivered, 1 if some are pending, also after Ctrl-C or SIGTERM, 2 after
    a mistake in the command or if another process is delivering, and 75 if a sink hangs.
    """
    header = read_header(run)
    selected = tuple(header.sinks) if names is None else parse_sinks(names)
    if not selected:
        msg = "no sink to deliver to; select one with --telemetry-sinks (`telemetry sinks` lists them)"
        raise SettingError(msg)
    given = _parse_assignments(assignments, selected)
    sinks = select(selected, {name: {**header.sinks.get(name, {}), **given.get(name, {})} for name in selected})
    _require_confirmation(run, sinks, header.sinks, given)
    # SDKs print what servers answer.
    safe_output = contextlib.redirect_stdout(LogStream(sys.stdout))
    safe_errors = contextlib.redirect_stderr(LogStream(sys.stderr))
    with umask_of(run), safe_output, safe_errors:
        complete = deliver(run, sinks, Settings.parse({"linger": linger}), follow=follow)
    receipt = read_receipt(run)
    print_sinks(receipt, *selected)
    print_skipped(receipt.skipped)
    if not complete:
        sys.exit(EXIT_INCOMPLETE)


def deliver(run: Path, sinks: Sequence[Sink], settings: Settings, *, follow: bool) -> bool:
    """Deliver a run to all sinks in parallel; return whether each of them has all records.

    Ctrl-C and the signals of batch systems stop delivery.

    Args:
        run: the run folder.
        sinks: the sinks with their options.
        settings: settings of telemetry; only ``poll``, ``linger`` and ``hook_timeout`` are used.
        follow: whether to continue until the run has ended.

    Raises:
        LeaseHeld: another process is delivering to one of the sinks; nothing has been delivered.
        RunFolderError: the run folder is not writable.
    """
    threads = [_DeliveryThread(run, sink, settings, follow=follow) for sink in sinks]
    try:
        for thread in threads:
            thread.acquire_lease()
    except OSError as error:
        msg = f"{run} is not writable ({error.strerror or error}); leases and delivery progress are stored there"
        if isinstance(error, PermissionError):
            msg += "; to deliver a run of another user, copy it (cp -r)"
        raise RunFolderError(msg) from error
    notices = SinkNotices(run, [sink.name for sink in sinks])
    for thread in threads:
        thread.start()
    try:
        with _interrupted_by(*STOP_SIGNALS):
            _join(threads, notices)
    except KeyboardInterrupt:
        print_line("stopping; run the same command again to deliver the remaining records", err=True)
        for thread in threads:
            thread.stop()
        _join(threads, notices)
    return all(thread.outcome in DELIVERED for thread in threads)


@contextlib.contextmanager
def _interrupted_by(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals raise KeyboardInterrupt in the block, as far as it runs in the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _join(threads: Sequence[_DeliveryThread], notices: SinkNotices) -> None:
    """Wait for the deliveries, and print which sinks cannot be reached; then, why deliveries have ended early."""
    for thread in threads:
        while not thread.join(NOTICE_INTERVAL):
            _print(notices.poll())
    _print(notices.poll(last=True))
    for thread in threads:
        if thread.problem:
            print_line(thread.problem, err=True)


def _print(notices: Sequence[Notice]) -> None:
    for level, text in notices:
        print_line(f"warning: {text}" if level >= logging.WARNING else text, err=True)


class _DeliveryThread:
    """Deliver to one sink in a daemon thread.

    ``outcome`` is None until the delivery has ended, and after an error; ``problem`` is a line about why the sink has
    not received all records, or "".
    """

    def __init__(self, run: Path, sink: Sink, settings: Settings, *, follow: bool) -> None:
        self.outcome: DeliveryOutcome | None = None
        self.problem = ""
        self._name = sink.name
        self._stop = threading.Event()
        # Before Python 3.13, a Thread.join interrupted by Ctrl-C marks the thread as ended.
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._delivery = Delivery(
            run,
            sink,
            settings,
            follow=follow,
            wait=self._wait,
            stop=self._stop.is_set,
            on_hang=lambda: _exit_hung(sink.name, settings.hook_timeout),
            log=append_to(log_path(run, sink.name)),
            warn=lambda line: print_line(line, err=True),
        )

    def acquire_lease(self) -> None:
        """Acquire the lease that ``start`` requires.

        Raises:
            LeaseHeld: another process is delivering to this sink.
            OSError: the lease file cannot be written.
        """
        self._delivery.lease.acquire()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the delivery to end after the current call to the sink."""
        self._stop.set()

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until the delivery has ended; return whether it has."""
        return self._done.wait(timeout)

    def _run(self) -> None:
        try:
            self.outcome = self._delivery.run()
            if self.outcome not in DELIVERED:
                self.problem = f"{self._name}: {self.outcome.value}"
        except (OSError, TelemetryError) as error:
            self.problem = f"error: {error}"
        finally:
            self._done.set()

    def _wait(self, seconds: float) -> None:
        self._stop.wait(seconds)


def _exit_hung(sink: str, seconds: float) -> None:
    print_line(f"error: {sink} has not returned from a hook for {seconds:.0f} s", err=True)
    # There is no other way to end a thread that hangs inside an SDK.
    os._exit(EXIT_HUNG)


def _parse_assignments(assignments: Sequence[str], selected: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options in ``SINK.NAME=VALUE`` assignments, by sink.

    Raises:
        SettingError: an assignment has a different form or names a sink that is not selected.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in assignments:
        # The value may be a credential, which messages must not contain.
        key, equals, value = text.partition("=")
        sink, dot, name = key.partition(".")
        if not (equals and dot and sink and name):
            msg = f"--option {key!r} is not of the form SINK.NAME=VALUE, such as tensorboard.dir=/scratch/tb"
            raise SettingError(msg)
        if sink not in selected:
            msg = f"--option {key!r}: sink {sink!r} is not selected; add it to --telemetry-sinks or remove the option"
            raise SettingError(msg)
        options.setdefault(sink, {})[name] = _parse_value(value)
    return options


def _require_confirmation(
    run: Path,
    sinks: Sequence[Sink],
    stored: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Mapping[str, Any]],
) -> None:
    """Exit if a destination comes only from the run folder; print the options that confirm such destinations."""
    problems = [
        f"the destination {assignment} comes from the run folder; if you trust it, add -o {assignment}"
        for sink in sinks
        for assignment in unconfirmed(sink, stored.get(sink.name, {}), given.get(sink.name, {}), run)
    ]
    for problem in problems:
        print_line(f"error: {problem}", err=True)
    if problems:
        sys.exit(EXIT_USAGE)


def _parse_value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
