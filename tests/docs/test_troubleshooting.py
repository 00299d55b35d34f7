"""The messages explained in the documentation exist in the code."""

import re
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = "\n".join(
    re.sub(r'"\s*\n?\s*f?"', "", path.read_text(encoding="utf-8"))
    for package in ("telemetry", "sinks", "aimnet2mult")
    for path in sorted(Path(str(resources.files(package))).rglob("*.py"))
)


def parts(message: str) -> list[str]:
    """Return the constant parts of a quoted message."""
    return [part.strip() for part in re.split(r"…|'[^']*'|telemetry\.\w+", message) if len(part.strip()) > 4]


def test_every_explained_message_exists_in_the_code() -> None:
    page = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"\*\*`([^`]*)`\*\*", page)
    assert len(messages) > 15
    assert [part for message in messages for part in parts(message) if part not in CODE] == []


def test_the_defaults_on_the_alerts_page_are_those_of_the_code() -> None:
    from telemetry.alerts.settings import AlertSettings

    page = (ROOT / "docs" / "how-to" / "alerts.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `telemetry\.watch\.(\w+)` \| (\d+)", page, re.MULTILINE))
    assert {name: float(value) for name, value in rows.items()} == {
        name: float(getattr(AlertSettings(), name)) for name in AlertSettings.__struct_fields__
    }
