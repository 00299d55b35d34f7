"""The TensorBoard sink: event files that ``tensorboard --logdir`` shows. Needs neither torch nor TensorFlow."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sinks._paths import command, own_folder
from telemetry.sink_api import (
    Opened,
    Record,
    RunRecord,
    SettingError,
    SinkRejected,
    Status,
    backend_errors,
    charts,
    hookimpl,
)

if TYPE_CHECKING:
    from sinks.tensorboard.event_files import EventFiles

_BACKEND = "tensorboard"


class TensorBoardSink:
    """Write one event for each record, named by its sequence number.

    Steps are iterations, wall times those of the journal, values float32 (the only precision that every viewer reads:
    beyond 3.4e38 they are shown as infinite).
    """

    requires = ("tensorboard",)

    @dataclass
    class Options:
        """Options of the sink.

        Attributes:
            dir: the folder for the event files: ``tensorboard`` by default. A relative path starts at the run folder,
                so that whoever delivers, from wherever, comes to the same one.
        """

        dir: str | None = None

    def __init__(self, options: Options) -> None:
        if options.dir is not None and (not options.dir.strip() or "\0" in options.dir):
            msg = f"telemetry.tensorboard.dir is {options.dir!r}; give a folder, or leave it out"
            raise SettingError(msg)
        self._options = options
        self._run: RunRecord | None = None
        self._folder = Path()
        self._files: EventFiles | None = None

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Read back what the folder holds, and add what is shown beside the curves if it is not there."""
        self._run = run
        with backend_errors(_BACKEND):
            self._folder = self._find_folder(folder)
        with self._attached() as files:
            _write_notes(files, run)
            return Opened(
                destination=str(self._folder),
                last_seq=files.held.last_seq,
                view=f"{command('tensorboard')} --logdir {shlex.quote(str(self._folder))}",
            )

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        """Append the records; those that the folder holds already are not written again."""
        with self._attached() as files:
            return files.write_records(records)

    @hookimpl
    def sink_close(self, status: Status) -> None:
        """Note how the training ended, at its last iteration."""
        with self._attached() as files:
            held = files.held
            files.write_notes([files.events.text("run/status", status, step=held.step, time=held.time)])

    def _find_folder(self, run: Path) -> Path:
        given = self._options.dir
        return own_folder(run, _BACKEND) if given is None else (run / Path(given).expanduser()).resolve()

    @contextmanager
    def _attached(self) -> Iterator[EventFiles]:
        with backend_errors(_BACKEND):
            if self._files is None:
                self._files = self._attach()
            try:
                yield self._files
            except SinkRejected:
                raise
            except Exception:
                # Part of a batch may be there; looking again is what tells.
                self._files = None
                raise

    def _attach(self) -> EventFiles:
        from sinks.tensorboard.event_files import EventFiles

        assert self._run is not None  # noqa: S101 - sink_open comes first
        return EventFiles(self._folder, self._run)


def _write_notes(files: EventFiles, run: RunRecord) -> None:
    from sinks import _run_tables

    time = run.time / 1000
    events = files.events
    notes = [
        events.text("run/about", _run_tables.about(run), time=time),
        events.text("run/parameters", _run_tables.parameters(run), time=time),
        events.text("run/units", _run_tables.units(run), time=time),
        events.layout(charts(run.metrics), time=time),
    ]
    files.write_notes(notes)
