"""The API reference covers every public name; `make docs` fails if it refers to a name that does not exist."""

import re
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import telemetry
from telemetry import sink_api, testing

API = Path(__file__).parents[2] / "docs" / "reference" / "api"


@pytest.mark.parametrize("module", [telemetry, sink_api])
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in API.glob("*.md"))
    documented = set(re.findall(rf"^::: {re.escape(module.__name__)}\.(\w+)$", pages, re.MULTILINE))
    assert set(module.__all__) <= documented


def test_every_public_name_of_telemetry_testing_is_in_the_reference() -> None:
    page = (API / "testing.md").read_text(encoding="utf-8")
    assert {name for name in testing.__all__ if not re.search(rf"\b{name}\b", page)} == set()


def test_the_overview_lists_every_page_with_a_module_that_exists() -> None:
    rows = re.findall(r"^\| \[`([\w.]+)`\]\((\w+\.md)\)", (API / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {page for _, page in rows} == {path.name for path in API.glob("*.md")} - {"index.md"}
    assert [module for module, _ in rows if find_spec(module) is None] == []
