"""The page of settings is as the code is."""

import runpy
from pathlib import Path

import msgspec

from telemetry import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")


def test_the_page_of_settings_is_what_the_code_gives() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "settings_page.py"))["page"]
    assert page() == PAGE, "run python tools/settings_page.py"


def test_each_setting_of_telemetry_has_a_meaning_on_the_page() -> None:
    rows = dict(line.strip("| ").split(" | ", 1) for line in PAGE.splitlines() if line.startswith("| `telemetry."))
    for field in msgspec.structs.fields(Settings):
        if field.name not in {"options", "watch"}:
            assert rows[f"`telemetry.{field.name}`"].rpartition("|")[2].strip()
