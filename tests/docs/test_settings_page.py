"""The settings page is up to date."""

import runpy
from pathlib import Path

import msgspec

from telemetry import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")


def test_the_settings_page_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "settings_page.py"))["page"]
    assert page() == PAGE, "run python tools/settings_page.py"


def test_every_telemetry_setting_has_a_description() -> None:
    rows = dict(line.strip("| ").split(" | ", 1) for line in PAGE.splitlines() if line.startswith("| `telemetry."))
    for field in msgspec.structs.fields(Settings):
        if field.name not in {"options", "watch"}:
            assert rows[f"`telemetry.{field.name}`"].rpartition("|")[2].strip()
