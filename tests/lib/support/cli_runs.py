"""A call of the ``telemetry`` command and a run to call it on, for the tests of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from support.telemetry_fakes import HandMadeRun, run_record
from telemetry.cli import main
from telemetry.journal.writer import JournalWriter
from telemetry.run_folder.process_identity import ProcessIdentity


def telemetry(*args: object) -> Result:
    """Run the ``telemetry`` command in this process."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


class FileSinkRun(HandMadeRun):
    """A run trained with the sink ``file``.

    Attributes:
        options: further saved options of the sink.
    """

    def __init__(self, folder: Path, backend: Path, trainer: ProcessIdentity | None = None) -> None:
        self.backend = backend
        super().__init__(folder, trainer)

    options: dict[str, Any] = {}  # noqa: RUF012 - replaced, not modified

    def begin(self, resume_step: int | None = None) -> None:
        super().begin(resume_step)
        self.journal.close()
        for path in self.folder.glob(f"journal-{self.attempt - 1}.jsonl"):
            path.unlink()
        record = msgspec.structs.replace(
            run_record(self.folder, self.attempt),
            sinks={"file": {"backend": str(self.backend), **self.options}},
        )
        self.journal = JournalWriter(self.folder, record, resumed_step=resume_step)
