"""The TensorBoard sink: event files for ``tensorboard --logdir``. Requires neither torch nor TensorFlow."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sinks._paths import default_folder, shell_command
from telemetry.sink_api import (
    Opened,
    Record,
    RunRecord,
    RunUpdate,
    SettingError,
    SinkRejected,
    Status,
    backend_errors,
    file_mode,
    hookimpl,
    is_inside,
    local_path,
    updated,
)

if TYPE_CHECKING:
    from sinks.tensorboard.run_files import RunFiles

_BACKEND = "tensorboard"
_URL = "http://localhost:6006/?smoothing=0{filter}#timeseries"
_STREAMS = "&runFilter=%5Cw"
"""The folders of the streams, but not the run's own folder, which is called ``.``."""


class TensorBoardSink:
    """Write one event for each record, identified by its sequence number; media are in the folder of their stream.

    Steps are iterations, and wall times are those of the journal. Values are float32, the only precision that all
    viewers support: values beyond 3.4e38 are shown as infinite.
    """

    requires = ("tensorboard",)
    destinations: ClassVar = {"dir": is_inside}
    media: ClassVar = ("text", "table", "image", "histogram")

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
        self._run: RunRecord
        self._run_folder = self._folder = Path()
        self._mode = 0o600
        self._files: RunFiles | None = None

    @hookimpl
    def sink_open(self, run: RunRecord, folder: Path) -> Opened:
        """Read the event files back, and write the tables unless they are up to date."""
        self._run, self._run_folder = run, folder.resolve()
        self._mode = file_mode(folder)
        with backend_errors(_BACKEND):
            self._folder = self._resolve_folder(folder)
        with self._open_files() as files:
            files.write_tables()
            url = _URL.format(filter=_STREAMS if files.has_overlay else "")
            return Opened(
                destination=str(self._folder),
                last_seq=files.last_seq,
                view=f"{shell_command('tensorboard')} --logdir {shlex.quote(str(self._folder))}\n{url}",
            )

    @hookimpl
    def sink_write(self, records: Sequence[Record]) -> int:
        """Append the records that are not in the files yet."""
        with self._open_files() as files:
            updates = (record for record in records if isinstance(record, RunUpdate))
            if (updated_run := reduce(updated, updates, self._run)) != self._run:
                self._run = updated_run
                files.describe(updated_run)
            return files.write_records(records)

    @hookimpl
    def sink_close(self, status: Status) -> None:
        """Write the final status at the last iteration."""
        with self._open_files() as files:
            files.write_status(status)

    def _resolve_folder(self, run: Path) -> Path:
        return default_folder(run, _BACKEND) if self._chosen is None else (run / self._chosen).resolve()

    @contextmanager
    def _open_files(self) -> Iterator[RunFiles]:
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

    def _read_files(self) -> RunFiles:
        from sinks.tensorboard.run_files import RunFiles

        return RunFiles(self._folder, self._run, self._run_folder, self._mode)
