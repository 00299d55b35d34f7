"""The links that sinks print open the curves, in a real browser and with the real backends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

from support import media_records, mlflow_kit, tensorboard_kit
from support.browser import open_browser
from support.ports import free_port
from telemetry import Metric
from telemetry.testing.points import run_record, scalars

pytestmark = pytest.mark.slow


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser() as browser:
        yield browser.new_page(viewport={"width": 1600, "height": 1000})


def test_the_link_to_a_run_in_mlflow_opens_charts_of_the_best_validation_values(tmp_path: Path, page: Page) -> None:
    run = run_record("water", metrics={"val/loss": Metric(better="lower"), "train/loss": Metric()})
    with mlflow_kit.Server(tmp_path) as server:
        sink, opened = mlflow_kit.open_sink(tmp_path / "run", run, tracking_uri=server.start())
        sink.sink_write([scalars(seq, 10 * seq, "val", loss=1 / seq) for seq in range(1, 6)])
        page.goto(opened.view)
        page.get_by_text("water (best/val/loss)").wait_for(timeout=30_000)
        # The values of the chart, as plotly has drawn them.
        page.wait_for_function("document.querySelector('.js-plotly-plot')?.data?.[0]?.y?.length == 5")
        drawn = page.evaluate("document.querySelector('.js-plotly-plot').data[0]")
    assert (list(drawn["x"]), list(drawn["y"])) == ([10, 20, 30, 40, 50], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_the_link_to_a_run_in_tensorboard_opens_one_chart_per_quantity(tmp_path: Path, page: Page) -> None:
    sink, opened = tensorboard_kit.open_sink(tmp_path)
    streams = ("train", "train_window", "val")
    sink.sink_write(
        [tensorboard_kit.scalars(n, 200, stream, loss=2.0, E_rmse=n) for n, stream in enumerate(streams, 1)]
    )
    with _tensorboard(tmp_path / "tensorboard") as port:
        link = urlsplit(opened.view.splitlines()[-1])._replace(netloc=f"127.0.0.1:{port}")
        _open(page, link.geturl())
        cards = page.locator("scalar-card")
        cards.nth(1).get_by_text("val", exact=True).wait_for(timeout=60_000)
        loss, energy = ("".join(card.inner_text().split()) for card in cards.all()[:2])  # names are wrapped
    assert "1overall/1loss" in loss
    assert "1overall/2E_rmse[kcal/mol]" in energy
    assert energy.endswith("train12000train_window22000val32000")  # stream, value, step, relative time


def test_images_in_mlflow_are_shown_next_to_the_curves(tmp_path: Path, page: Page) -> None:
    folder = tmp_path / "run"
    with mlflow_kit.Server(tmp_path) as server:
        sink, opened = mlflow_kit.open_sink(folder, run_record("water"), tracking_uri=server.start())
        images = [media_records.image(folder, seq) for seq in (1, 2)]
        sink.sink_write([*images, scalars(3, None, "val", loss=1.0)])
        page.goto(opened.view)
        slider = page.get_by_role("slider").first
        slider.wait_for(timeout=30_000)
        # It stands at iteration 0 at first.
        slider.press("ArrowRight")
        page.wait_for_function("document.querySelector('.ant-image img, img[src*=artifact]')?.naturalWidth == 3")


def test_images_and_histograms_in_tensorboard_are_shown_below_the_curves(tmp_path: Path, page: Page) -> None:
    sink, opened = tensorboard_kit.open_sink(tmp_path)
    sink.sink_write([*media_records.one_of_each(tmp_path), tensorboard_kit.scalars(6, stream="val", loss=2.0)])
    with _tensorboard(tmp_path / "tensorboard") as port:
        link = urlsplit(opened.view.splitlines()[-1])._replace(netloc=f"127.0.0.1:{port}")
        _open(page, link.geturl())
        page.locator("scalar-card").wait_for(timeout=60_000)
        for card, name in (("histogram-card", "val/residuals"), ("image-card", "val/parity/E")):
            assert name in "".join(page.locator(card).inner_text().split())
        page.wait_for_function("document.querySelector('image-card img')?.naturalWidth == 3")
        page.goto("about:blank")
        _open(page, link._replace(fragment="text").geturl())
        page.get_by_text("tag: val/errors").wait_for(timeout=60_000)
        assert page.get_by_text("a|b", exact=True).count() > 0


@contextmanager
def _tensorboard(folder: Path) -> Iterator[int]:
    """Run TensorBoard, and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.kill()


def _open(page: Page, url: str) -> None:
    """Open the page of a server that is still starting."""
    for _ in range(120):
        try:
            page.goto(url)
        except Exception:  # noqa: BLE001 - refused until the server listens
            page.wait_for_timeout(500)
        else:
            return
    pytest.fail(f"{url} does not answer")
