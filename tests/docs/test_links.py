"""Relative links point to existing files; `make docs` also checks those within the site, with their anchors."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *(
        path
        for folder in ("docs", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*.md")
        if not path.is_symlink()
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_point_to_existing_files(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))
    # A page may be a link to another one.
    folder = page.resolve().parent
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_readme_links_to_pages() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("](docs/") > 10
