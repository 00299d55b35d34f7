"""A running TensorBoard server shows a run written by the sink."""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from support.tensorboard_kit import STARTED, make_run, open_sink, resumed, scalars

T = TypeVar("T")
TIMEOUT = 60.0
"""Seconds."""


def wait_for(get: Callable[[], T | None], what: str) -> T:
    """Poll until the result is not None; fail after the timeout."""
    deadline = time.monotonic() + TIMEOUT
    while (answer := get()) is None:
        assert time.monotonic() < deadline, f"no {what} after {TIMEOUT:.0f} s"
        threading.Event().wait(0.1)
    return answer


@pytest.fixture(scope="module", params=["fast", "own"], ids=lambda name: f"the {name} loader")
def server(request, tmp_path_factory) -> Iterator[str]:
    """Yield the URL of a server with one run, which was resumed from an earlier iteration."""
    root = tmp_path_factory.mktemp("runs")
    sink, _ = open_sink(root / "water")
    sink.sink_write([scalars(1, 1, loss=1.0, E_rmse=4.0), scalars(2, 2, loss=2.0), scalars(3, 3, loss=3.0)])
    sink, _ = open_sink(root / "water", make_run(attempt=2, params={"optimizer": {"lr": 0.001}}))
    sink.sink_write([resumed(10**9 + 1, step=1), scalars(10**9 + 2, 2, loss=20.0), scalars(10**9 + 3, 4, loss=40.0)])
    log = root / "log"
    arguments = ["--logdir", str(root), "--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"]
    arguments += ["--load_fast", "true" if request.param == "fast" else "false"]
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *arguments], stdout=output, stderr=output)
    try:
        yield wait_for(lambda: _address(process, log), "server")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str | None:
    assert process.poll() is None, log.read_text()
    found = re.search(r"http://[\w.]+:\d+/", log.read_text())
    return found and found[0]


def ask(server: str, path: str, **query: str) -> Any:
    url = f"{server}data/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - the address is the test's own server
        return json.load(answer)


def test_the_server_shows_the_curves_the_charts_and_the_tables(server):
    run = "water/tensorboard"

    def tags() -> dict[str, Any] | None:
        found = ask(server, "plugin/scalars/tags").get(run, {})
        return found if {"train/loss", "train/E_rmse"} <= found.keys() else None

    found = wait_for(tags, "curves")
    # The text is Markdown, shown as HTML.
    assert "RMSE of energy [kcal/mol]" in found["train/E_rmse"]["description"]
    assert sorted(ask(server, "runs")) == [run, f"{run}/train"]

    points = ask(server, "plugin/scalars/scalars", run=run, tag="train/loss")
    assert [(step, value) for _, step, value in points] == [(1, 1.0), (2, 20.0), (4, 40.0)]
    assert points[0][0] == (STARTED + 1001) / 1000

    overlay, tag = f"{run}/train", "1 overall/1 loss"
    assert wait_for(lambda: ask(server, "plugin/scalars/tags").get(overlay), "overlay").keys() == {
        tag,
        "1 overall/2 E_rmse [kcal/mol]",
    }
    assert ask(server, "plugin/scalars/scalars", run=overlay, tag=tag) == points

    layout = ask(server, "plugin/custom_scalars/layout")
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in layout["category"][0]["chart"]}
    assert list(charts) == ["loss", "RMSE of energy [kcal/mol]"]
    drawn = ask(server, "plugin/custom_scalars/scalars", run=overlay, tag="|".join(f"({t})" for t in charts["loss"]))
    assert list(drawn["tag_to_events"]) == [tag]

    texts = ask(server, "plugin/text/text", run=run, tag="run/parameters")
    assert "<td>optimizer.lr</td>" in texts[-1]["text"]
