"""A headless browser for tests of pages that Bokeh draws."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
"""Names of the installed programs that can be used, in order of preference."""
_FIGURES = """
const figures = [...(Bokeh.documents[0]?.all_models ?? [])]
  .filter((m) => m.type == "Figure" && Bokeh.index.find_one(m) != null)
const chart = (title) => figures.find((m) => m.name == title)
const line = (title, label) => chart(title).renderers.find((r) => r.name == label)
"""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser that is installed on this machine; skip the test if there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        # Without a sandbox, it also runs as root; it opens only pages of the tests.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A tab of the browser with a page of charts.

    Attributes:
        page: the page of Playwright.
        requests: the addresses that were requested.
        errors: uncaught exceptions, and errors on the console.
    """

    def __init__(self, browser: Browser, url: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1600, "height": 1000})
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.goto(url)

    def hosts(self) -> set[str]:
        """Return the hosts that were asked, other than this machine."""
        return {urlsplit(each).hostname or "" for each in self.requests} - {"", "localhost"}

    def read(self, expression: str) -> Any:
        """Return the value of a JavaScript expression about the displayed ``figures``."""
        return self.page.evaluate(f"() => {{ {_FIGURES} return {expression} }}")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression about the displayed ``figures`` is true."""
        self.page.wait_for_function(f"() => {{ {_FIGURES} return {condition} }}", timeout=20_000)

    def titles(self) -> list[str]:
        """Return the titles of the displayed charts, in order."""
        found: list[str] = self.read(
            "figures.map((m) => [Bokeh.index.find_one(m).el.getBoundingClientRect(), m.name])"
            ".sort(([a, _a], [b, _b]) => a.top - b.top || a.left - b.left).map(([_, name]) => name)"
        )
        return found

    def points(self, title: str, label: str) -> list[tuple[float, float]]:
        """Return the drawn points of a line."""
        found = self.read(
            f"[...line({title!r}, {label!r}).data_source.data.x].map((x, i) => "
            f"[x, line({title!r}, {label!r}).data_source.data.y[i]])"
        )
        return [(x, y) for x, y in found]

    def hover(self, title: str, step: float, value: float) -> list[str]:
        """Move the pointer to a position on a chart, and return the lines of the box that appears."""
        x, y = self.read(
            f"((view) => [view.el.getBoundingClientRect().x + view.frame.x_scale.compute({step}),"
            f" view.el.getBoundingClientRect().y + view.frame.y_scale.compute({value})])"
            f"(Bokeh.index.find_one(chart({title!r})))"
        )
        self.page.mouse.move(x + 30, y)
        self.page.mouse.move(x, y)
        box = self.page.locator("#hover")
        box.wait_for(state="visible")
        return box.inner_text().splitlines()

    def press(self, button: str) -> None:
        """Press a button, given by its exact label."""
        self.page.get_by_role("button", name=button, exact=True).click()
