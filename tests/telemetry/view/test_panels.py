"""The lists next to the charts of the live page."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bokeh")

from support.written_runs import WrittenRun
from telemetry.journal.reader import read_header
from telemetry.view.panels import events_panel
from telemetry.view.run_entry import RunEntry, SinkState


def entry(folder: Path, status: Any, pending: int) -> RunEntry:
    header = read_header(WrittenRun(folder).folder)
    sink = SinkState(
        name="mlflow", state="closed", delivered=5, pending=pending, is_behind=pending > 0, error="", view=""
    )
    return RunEntry(key="k", label="water", folder=folder, header=header, status=status, sinks=[sink])


@pytest.mark.parametrize(
    ("status", "pending", "shown"), [("killed", 3, True), ("running", 3, False), ("killed", 0, False)]
)
def test_an_ended_run_shows_the_command_that_delivers_pending_records(
    tmp_path: Path, status: str, pending: int, shown: bool
) -> None:
    folder = tmp_path / "a run"
    command = f"telemetry sync &#x27;{folder}&#x27; --telemetry-sinks mlflow"
    assert (command in events_panel([entry(folder, status, pending)])) is shown
