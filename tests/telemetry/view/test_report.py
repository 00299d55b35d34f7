"""Reports: one HTML file that works without a server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("bokeh")

from support.browser import Tab, open_browser
from support.png_images import png
from support.written_runs import NOON, WrittenRun
from telemetry import Metric
from telemetry.cli import main
from telemetry.records import Image, Text
from telemetry.view.report import MAX_CHARTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<img src=x onerror=window.hacked=1></script><script>window.hacked=2</script>"
ENERGY = "RMSE of energy [kcal/mol]"
METRICS = {
    **{f"{stream}/loss": Metric(label="loss", better="lower", main=True) for stream in ("train", "val")},
    **{
        f"{stream}/E_rmse": Metric(unit="kcal/mol", label="RMSE of energy", better="lower", main=True)
        for stream in ("train", "val")
    },
    "val/gfn1/E_rmse": Metric(unit="kcal/mol", label=f"gfn1 {HOSTILE}", better="lower"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def training(folder: Path, factor: float = 1.0) -> WrittenRun:
    run = WrittenRun(folder, metrics=METRICS, params={"lr": factor, HOSTILE: HOSTILE})
    for step in range(100, 2001, 100):
        run.points("train", step, {"loss": 2 * math.exp(-step / 300), "E_rmse": 50 * math.exp(-step / 300)})
        if not step % 500:
            values = {"loss": 1.0, "E_rmse": factor * 50 * math.exp(-step / 300), "gfn1/E_rmse": 7.0}
            run.points("val", step, values)
    run.alert(500, HOSTILE, text=HOSTILE)
    run.close()
    return run


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_a_report_works_offline_and_its_switches_do_too(browser: Browser, tmp_path: Path) -> None:
    run, path = training(tmp_path / "water"), tmp_path / "report.html"
    result = report(run.folder, "-o", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"wrote {path} (2.")
    tab = Tab(browser, path.as_uri())
    tab.wait("figures.length == 2")
    assert tab.titles() == ["loss", ENERGY]
    assert tab.hover(ENERGY, 1500, 1) == [
        f"train {50 * math.exp(-5):.6g} kcal/mol at iteration 1,500",
        f"val {50 * math.exp(-5):.6g} kcal/mol at iteration 1,500",
    ]
    tab.press("train")
    tab.wait(f"!line({ENERGY!r}, 'train').visible && line({ENERGY!r}, 'val').visible")
    tab.press("gfn1")
    tab.wait("figures.length == 3")
    assert tab.read(f"chart({ENERGY!r}).y_scale.type") == "LogScale"
    tab.press("linear")
    tab.wait(f"chart({ENERGY!r})?.y_scale.type == 'LinearScale'")
    tab.press("overall")
    tab.wait("figures.length == 1")
    assert HOSTILE in tab.titles()[0]
    assert tab.page.get_by_text(HOSTILE).count() > 2
    assert tab.read("window.hacked") is None
    assert (tab.requests, tab.errors) == ([path.as_uri()], [])


def test_a_report_about_several_runs_compares_validation_and_parameters(browser: Browser, tmp_path: Path) -> None:
    runs, path = [training(tmp_path / "water"), training(tmp_path / "ice", 2.0)], tmp_path / "report.html"
    assert report(*(run.folder for run in runs), "-o", path).exit_code == 0
    tab = Tab(browser, path.as_uri())
    tab.wait("figures.length == 2")
    visible = "chart('loss').renderers.filter((r) => r.visible && r.name && r.name != 'marks').map((r) => r.name)"
    assert sorted(tab.read(visible)) == ["ice val", "water val"]
    assert tab.page.locator("details[open] tr.different th").all_inner_texts() == ["lr"]


def test_headings_of_three_lines_are_not_cut(browser: Browser, tmp_path: Path) -> None:
    labels = ("loss", "RMSE of energy", "RMSE of forces", "RMSE of atomic charges", "RMSE of atomic spin charges")
    metrics = {
        f"val/m{number}": Metric(label=label, unit="kcal/mol/Å", better="lower", main=True)
        for number, label in enumerate(labels)
    }
    run, path = WrittenRun(tmp_path / "water", metrics=metrics), tmp_path / "report.html"
    run.points("val", 100, {f"m{number}": 1.0 for number in range(len(labels))})
    run.close()
    assert report(run.folder, "-o", path).exit_code == 0
    tab = Tab(browser, path.as_uri())
    tab.wait("figures.length > 0")
    headings = tab.page.locator(".slick-header-column")
    needed = headings.evaluate_all(
        "all => all.map((e) => [e.innerText, e.querySelector('.slick-column-name').offsetHeight, e.clientHeight])"
    )
    assert max(height for _, height, _ in needed) >= 3 * 17
    assert not [text for text, height, available in needed if height > available]


@pytest.mark.slow
def test_the_report_about_a_long_run_has_up_to_3_mb(tmp_path: Path) -> None:
    names = [f"{part}{name}" for part in ("", "gfn1/", "gfn2/") for name in ("a", "b", "c", "d", "e", "f", "g", "h")]
    streams = ("train", "train_window", "train_epoch", "val")
    run = WrittenRun(
        tmp_path / "long", metrics={f"{stream}/{name}": Metric(better="lower") for stream in streams for name in names}
    )
    for step in range(1000):
        for stream in streams:
            run.points(stream, step, {name: math.sin(step + len(name)) + 2 for name in names})
    path = tmp_path / "report.html"
    assert report(run.folder, "-o", path).exit_code == 0
    assert path.stat().st_size <= 3_000_000


def test_a_report_is_not_written_into_a_run_folder(tmp_path: Path) -> None:
    run = training(tmp_path / "water")
    result = report(run.folder, "-o", run.folder / "report.html")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {run.folder / 'report.html'} is inside the run folder")
    assert not (run.folder / "report.html").exists()


def test_a_folder_without_a_run_and_an_output_that_cannot_be_written_are_reported(tmp_path: Path) -> None:
    run = training(tmp_path / "water")
    (tmp_path / "empty").mkdir()
    for arguments in ([tmp_path / "empty", "-o", tmp_path / "a.html"], [run.folder, "-o", tmp_path / "no" / "a.html"]):
        result = report(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith("error: ")


def test_a_folder_of_runs_gives_a_report_about_all_of_them(tmp_path: Path) -> None:
    for name in ("water", "methane"):
        training(tmp_path / "runs" / name)
    (tmp_path / "runs" / "mlflow.db").write_bytes(b"")
    path = tmp_path / "report.html"
    assert report(tmp_path / "runs", "-o", path).exit_code == 0
    assert "<title>methane, water</title>" in path.read_text().replace("water, methane", "methane, water")


def test_undeclared_metrics_are_in_the_report(browser: Browser, tmp_path: Path) -> None:
    run, path = WrittenRun(tmp_path / "other", metrics={}), tmp_path / "report.html"
    for step in (1, 2):
        run.points("eval", step, {"accuracy": step / 3})
    assert report(run.folder, "-o", path).exit_code == 0
    tab = Tab(browser, path.as_uri())
    tab.wait("figures.length == 1")
    assert tab.points("accuracy", "eval") == [(1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3))]


def test_the_newest_contents_are_in_the_report_and_can_be_hidden(browser: Browser, tmp_path: Path) -> None:
    run, path = training(tmp_path / "water"), tmp_path / "report.html"
    for step in (100, 200):
        run.media(Image, "val/parity", step, png(step, 20), ".png", width=step, height=20)
    run.media(Text, "run/command", 0, HOSTILE.encode(), ".md")
    run.points("system", 100, {"memory": 1.0})
    assert report(run.folder, "-o", path).exit_code == 0
    tab = Tab(browser, path.as_uri())
    tab.page.get_by_text("val/parity at iteration 200").wait_for()
    assert tab.page.locator("figure img").evaluate_all("all => all.map((image) => image.naturalWidth)") == [200]
    tab.press("images")
    tab.page.locator("figure img").wait_for(state="hidden")
    assert tab.page.locator("figure pre").inner_text() == HOSTILE
    assert tab.read("window.hacked") is None
    assert (tab.requests, tab.errors) == ([path.as_uri()], [])


def test_a_report_about_many_metrics_has_a_limited_number_of_charts(tmp_path: Path) -> None:
    names = [f"metric_{number}" for number in range(MAX_CHARTS + 1)]
    run, path = WrittenRun(tmp_path / "many", metrics={f"val/{name}": Metric() for name in names}), tmp_path / "r.html"
    run.points("val", 2**53 + 1, dict.fromkeys(names, 1.0), time=NOON)
    result = report(run.folder, "-o", path)
    assert (result.exit_code, result.stderr) == (0, "")
    text = path.read_text(encoding="utf-8")
    assert f"The first {MAX_CHARTS} of {MAX_CHARTS + 1} charts are shown" in text
    assert f"metric_{MAX_CHARTS - 1}" in text
    assert f"metric_{MAX_CHARTS}" not in text
