"""The messages that the documentation explains are messages of the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = "\n".join(
    re.sub(r'"\s*\n?\s*f?"', "", path.read_text(encoding="utf-8"))
    for folder in ("telemetry", "sinks", "aimnet2mult")
    for path in sorted((ROOT / folder).rglob("*.py"))
)


def parts(message: str) -> list[str]:
    """Give what of a quoted message is the same whatever it is about."""
    return [part.strip() for part in re.split(r"…|'[^']*'|telemetry\.\w+", message) if len(part.strip()) > 4]


def test_each_message_that_is_explained_is_one_of_the_code() -> None:
    page = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"\*\*`([^`]*)`\*\*", page)
    assert len(messages) > 15
    assert [part for message in messages for part in parts(message) if part not in CODE] == []


def test_what_the_page_of_alerts_says_of_its_settings_is_so() -> None:
    from telemetry.alerts.detector import WatchSettings

    page = (ROOT / "docs" / "how-to" / "alerts.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `telemetry\.watch\.(\w+)` \| (\d+)", page, re.MULTILINE))
    assert {name: float(value) for name, value in rows.items()} == {
        name: float(getattr(WatchSettings(), name)) for name in WatchSettings.__struct_fields__
    }
