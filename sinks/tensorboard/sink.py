"""The TensorBoard sink: event files for ``tensorboard --logdir``. Requires neither torch nor TensorFlow."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sinks._paths import default_folder, shell_command
from telemetry.sink_api import (
    Opened,
    Record,
    RunRecord,
    SettingError,
    SinkRejected,
    Status,
    backend_errors,
    charts,
    file_mode,
    hookimpl,
    is_inside,
    local_path,
)

if TYPE_CHECKING:
    from sinks.tensorboard.event_files import EventFiles

_BACKEND = "tensorboard"


class TensorBoardSink:
    """Write one event for each record, identified by its sequence number.

    Steps are iterations, and wall times are those of the journal. Values are float32, the only precision that all
    viewers support: values beyond 3.4e38 are shown as infinite.
    """

    requires = ("tensorboard",)
    destinations: ClassVar = {"dir": is_inside}

    @dataclass
    class Options:
        """Options of the sink.

        Attributes:
            dir: the folder for the event files; ``tensorboard`` by default. A relative path is resolved against the run
                folder, not against the working directory.
        """

        dir: str | None = None

    def __init__(self, options: Options) -> None:
        self._chosen = (
            None if options.dir is None else local_path(options.dir, "telemetry.tensorboard.dir", SettingError)
        )
        self._run: RunRecord | None = None
        self._folder = Path()
        self._mode = 0o600
        self._files: EventFiles | None = None

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Read the event files back, and write the tables and the chart layout unless they are up to date."""
        self._run = run
        self._mode = file_mode(folder)
        with backend_errors(_BACKEND):
            self._folder = self._resolve_folder(folder)
        with self._open_files() as files:
            _write_summaries(files, run)
            return Opened(
                destination=str(self._folder),
                last_seq=files.state.last_seq,
                view=f"{shell_command('tensorboard')} --logdir {shlex.quote(str(self._folder))}",
            )

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        """Append the records that are not in the files yet."""
        with self._open_files() as files:
            return files.write_records(records)

    @hookimpl
    def sink_close(self, status: Status) -> None:
        """Write the final status at the last iteration."""
        with self._open_files() as files:
            state = files.state
            files.write_summaries([files.builder.text("run/status", status, step=state.step, time=state.time)])

    def _resolve_folder(self, run: Path) -> Path:
        return default_folder(run, _BACKEND) if self._chosen is None else (run / self._chosen).resolve()

    @contextmanager
    def _open_files(self) -> Iterator[EventFiles]:
        with backend_errors(_BACKEND):
            if self._files is None:
                self._files = self._read_files()
            try:
                yield self._files
            except SinkRejected:
                raise
            except Exception:
                # Part of a batch may have been written: read the files again before the next write.
                self._files = None
                raise

    def _read_files(self) -> EventFiles:
        from sinks.tensorboard.event_files import EventFiles

        assert self._run is not None  # noqa: S101 - sink_open comes first
        return EventFiles(self._folder, self._run, self._mode)


def _write_summaries(files: EventFiles, run: RunRecord) -> None:
    from sinks import _run_tables

    time = run.time / 1000
    builder = files.builder
    files.write_summaries(
        [
            builder.text("run/about", _run_tables.run_table(run), time=time),
            builder.text("run/parameters", _run_tables.parameter_table(run), time=time),
            builder.text("run/units", _run_tables.unit_table(run), time=time),
            builder.layout(charts(run.metrics), time=time),
        ]
    )
