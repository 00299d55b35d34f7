"""``telemetry sinks``: the listed sinks and their state."""

from __future__ import annotations

import pytest

from support.cli_runs import telemetry


@pytest.mark.usefixtures("fake_sinks")
def test_sinks_are_listed_with_their_options_and_missing_packages() -> None:
    result = telemetry("sinks")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "file  (fakes 1.0)  installed" in lines
    assert "    telemetry.file.backend: str" in lines
    assert "    telemetry.file.reports_last_seq: bool = True" in lines
    assert "lacking  (fakes 1.0)  not installed: pip install no_such_module" in lines
    assert any(line.startswith("broken  BROKEN: ") and "no_such_module" in line for line in lines)
    assert any(line.startswith("tensorboard  (aimnet2mult ") for line in lines)
