"""The live page in a browser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("bokeh")

from support.browser import Tab, open_browser
from support.png_images import png
from support.view_server import serving
from support.written_runs import WrittenRun
from telemetry import Metric
from telemetry.records import Artifact, Histogram, Image, Table, Text
from telemetry.view.page import MAX_CHARTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ENERGY, FORCES = "RMSE of energy [kcal/mol]", "RMSE of forces [kcal/mol/Å]"


def metrics() -> dict[str, Metric]:
    """Return declarations like those of the trainer."""
    found = {}
    for stream in ("train", "val"):
        for name, unit, label in (
            ("loss", "1", "loss"),
            ("E_rmse", "kcal/mol", "RMSE of energy"),
            ("F_rmse", "kcal/mol/Å", "RMSE of forces"),
            ("q_rmse", "e", "RMSE of atomic charges"),
            ("s_rmse", "e", "RMSE of atomic spin charges"),
        ):
            found[f"{stream}/{name}"] = Metric(unit=unit, label=label, better="lower", main=True)
        found[f"{stream}/gfn1/E_rmse"] = Metric(unit="kcal/mol", label="RMSE of energy, gfn1", better="lower")
    found["train/lr"] = Metric(label="learning rate")
    return found


def value(step: int, factor: float = 1.0) -> float:
    return factor * (1.5 + 40 * math.exp(-step / 300))


def add_points(run: WrittenRun, first: int, last: int, factor: float = 1.0) -> None:
    """Append the iterations from ``first`` to ``last`` in steps of 100, with a validation every 500."""
    names = ["loss", "E_rmse", "F_rmse", "q_rmse", "s_rmse", "gfn1/E_rmse"]
    for step in range(first, last + 1, 100):
        run.points("train", step, {name: value(step, 1.1 * factor) for name in names} | {"lr": 0.001})
        if not step % 500:
            run.points("val", step, {name: value(step, factor) for name in names})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    written = WrittenRun(tmp_path / "runs" / "water", metrics=metrics(), params={"lr": 0.001, "seed": 1})
    add_points(written, 100, 2000)
    return written


def shown(browser: Browser, url: str, charts: int = 5) -> Tab:
    tab = Tab(browser, url)
    tab.wait(f"figures.length == {charts}")
    return tab


def test_the_main_charts_of_a_run_fit_a_screen_and_show_all_streams_without_asking_other_machines(
    browser: Browser, run: WrittenRun
) -> None:
    with serving([run.folder.parent]) as server:
        tab = shown(browser, server.url)
        assert tab.titles() == [
            "loss",
            ENERGY,
            FORCES,
            "RMSE of atomic charges [e]",
            "RMSE of atomic spin charges [e]",
        ]
        bottom = tab.read("Math.max(...figures.map((m) => Bokeh.index.find_one(m).el.getBoundingClientRect().bottom))")
        assert bottom < 1000
        assert tab.points(ENERGY, "val") == [(s, pytest.approx(value(s), rel=1e-6)) for s in range(500, 2001, 500)]
        assert len(tab.points(ENERGY, "train")) == 20
        summary = tab.read(f"chart({ENERGY!r}).above.find((m) => m.name == 'summary').text.text")
        assert summary == "val 1.551, best 1.551 at 2,000 · lower is better"
        assert (tab.hosts(), tab.errors) == (set(), [])


def test_hovered_values_are_those_of_the_journal(browser: Browser, run: WrittenRun) -> None:
    with serving([run.folder]) as server:
        lines = shown(browser, server.url).hover(ENERGY, 1510, 20)
    assert lines == [
        f"train {value(1500, 1.1):.6g} kcal/mol at iteration 1,500",
        f"val {value(1500):.6g} kcal/mol at iteration 1,500",
    ]


def test_new_points_and_new_runs_appear_by_themselves_and_a_zoom_stays(browser: Browser, run: WrittenRun) -> None:
    with serving([run.folder.parent]) as server:
        tab = shown(browser, server.url)
        box = tab.page.locator("canvas").nth(1).bounding_box()
        assert box is not None
        tab.page.mouse.move(box["x"] + 150, box["y"] + 120)
        tab.page.mouse.down()
        tab.page.mouse.move(box["x"] + 300, box["y"] + 200, steps=3)
        tab.page.mouse.up()
        tab.wait(f"chart({ENERGY!r}).x_range.start > 300")
        zoom = tab.read(f"[chart({ENERGY!r}).x_range.start, chart({ENERGY!r}).x_range.end]")
        add_points(run, 2100, 2500)
        run.alert(2500, "a spike", level="error", metric="val/E_rmse")
        ice = WrittenRun(run.folder.parent / "ice", metrics=metrics())
        add_points(ice, 100, 500)
        tab.wait(f"line({ENERGY!r}, 'val').data_source.data.x.at(-1) == 2500")
        tab.page.get_by_text("ice").first.wait_for()
        tab.page.get_by_text("a spike").first.wait_for()
        assert tab.read(f"[chart({ENERGY!r}).x_range.start, chart({ENERGY!r}).x_range.end]") == zoom
        run.close()
        tab.page.get_by_text("finished").first.wait_for()
        assert tab.errors == []


def test_a_page_that_is_opened_later_selects_among_the_runs_of_that_time(browser: Browser, run: WrittenRun) -> None:
    with serving([run.folder.parent]) as server:
        tab = shown(browser, server.url)
        add_points(WrittenRun(run.folder.parent / "later", metrics=metrics()), 100, 500)
        tab.page.get_by_text("later", exact=True).wait_for(timeout=20_000)
        shown(browser, server.url).wait(f"line({ENERGY!r}, 'later') != null")


def test_several_runs_have_a_color_each_and_show_only_validation(browser: Browser, run: WrittenRun) -> None:
    ice = WrittenRun(run.folder.parent / "ice", metrics=metrics(), params={"lr": 0.002, "seed": 1})
    add_points(ice, 100, 2000, 2.0)
    with serving([run.folder.parent]) as server:
        tab = shown(browser, server.url)
        lines = tab.read(f"chart({ENERGY!r}).renderers.filter((r) => r.name && r.name != 'marks').map((r) => r.name)")
        assert sorted(lines) == ["ice", "water"]
        assert len(set(tab.read(f"['ice', 'water'].map((n) => line({ENERGY!r}, n).glyph.line_color.value)"))) == 2
        differing = tab.page.locator("details[open] tr.different")
        assert differing.all_inner_texts() == ["lr\t0.001\t0.002"] or differing.all_inner_texts() == [
            "lr\t0.002\t0.001"
        ]
        tab.press("train")
        tab.wait(f"line({ENERGY!r}, 'ice train') != null")
        tab.page.locator(".slick-row input").first.click()
        tab.wait(f"line({ENERGY!r}, 'val') != null || line({ENERGY!r}, 'train') != null")


def test_fidelities_scale_and_smoothing_can_be_chosen(browser: Browser, run: WrittenRun) -> None:
    with serving([run.folder]) as server:
        tab = shown(browser, server.url)
        tab.press("gfn1")
        tab.press("progress")
        tab.wait("figures.length == 7")
        assert tab.titles()[5:] == ["RMSE of energy, gfn1 [kcal/mol]", "learning rate"]
        tab.press("linear")
        tab.wait(f"chart({ENERGY!r}).y_scale.type == 'LinearScale'")
        tab.press("log")
        tab.wait(f"chart({ENERGY!r}).y_scale.type == 'LogScale'")
        tab.press("5")
        tab.wait(f"chart({ENERGY!r}).renderers.filter((r) => r.glyph.type == 'Line').length == 4")
        assert tab.errors == []


def test_values_that_are_not_finite_are_counted_and_marked(browser: Browser, run: WrittenRun) -> None:
    run.points("val", 2500, {"E_rmse": math.nan})
    run.points("val", 3000, {"E_rmse": math.inf})
    with serving([run.folder]) as server:
        tab = shown(browser, server.url)
        summary = tab.read(f"chart({ENERGY!r}).above.find((m) => m.name == 'summary').text.text")
        assert summary == "2 values are not finite · val ∞, best 1.551 at 2,000 · lower is better"
        marks = tab.read(f"line({ENERGY!r}, 'marks').data_source.data.text")
        assert marks == ["val is NaN at iteration 2,500 to 3,000 (2 points)"]
        assert "val is NaN at iteration 2,500 to 3,000 (2 points)" in tab.hover(ENERGY, 2500, 20)


def test_runs_are_drawn_as_they_are_read_and_the_first_to_appear_is_selected(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with serving([tmp_path / "runs"]) as server:
        tab = Tab(browser, server.url)
        tab.page.get_by_text("No runs yet").wait_for()
        run = WrittenRun(tmp_path / "runs" / "other", metrics={})
        for step in (1, 2):
            run.points("eval", step, {"accuracy": 0.5 * step})
        tab.wait("figures.length == 1")
        assert tab.points("accuracy", "eval") == [(1, 0.5), (2, 1.0)]
        tab.press("eval")
        tab.page.get_by_text("The selected streams and charts have no points").wait_for()
        assert tab.errors == []


def test_the_reason_is_shown_if_the_selected_run_cannot_be_read(browser: Browser, run: WrittenRun) -> None:
    run.journal.write_bytes(b"damaged\n")
    with serving([run.folder]) as server:
        Tab(browser, server.url).page.get_by_text("contains no journal-<k>.jsonl with a run record").wait_for()


def test_the_number_of_charts_is_limited(browser: Browser, tmp_path: Path) -> None:
    names = [f"m{number:04}" for number in range(300)]
    run = WrittenRun(tmp_path / "many", metrics={f"val/{name}": Metric() for name in names})
    for step in (1, 2):
        run.points("val", step, dict.fromkeys(names, 1.0))
    with serving([run.folder]) as server:
        tab = shown(browser, server.url, charts=MAX_CHARTS)
        tab.page.get_by_text(f"The first {MAX_CHARTS} of 300 charts are shown").wait_for()


HOSTILE = "<img src=x onerror=window.hacked=1>$$x^2$$@{run}{safe}"


def test_hostile_texts_are_displayed_and_not_executed(browser: Browser, tmp_path: Path) -> None:
    for number in range(2):
        declared = {
            f"stream {HOSTILE}/{HOSTILE}": Metric(unit=HOSTILE, label=HOSTILE, better="lower", main=True),
            f"val/{HOSTILE}": Metric(unit=HOSTILE, label=HOSTILE, better="lower", main=True),
            f"val/{HOSTILE}/x": Metric(label=HOSTILE, better="lower"),
        }
        run = WrittenRun(
            tmp_path / f"{number}", name=f"{number} {HOSTILE}", metrics=declared, params={HOSTILE: f"{HOSTILE}{number}"}
        )
        for step in (1, 2):
            for name in declared:
                run.point(name, step, 1.0)
        run.alert(1, HOSTILE, text=HOSTILE, metric=f"val/{HOSTILE}")
    with serving([tmp_path]) as server:
        tab = shown(browser, server.url, charts=1)
        tab.press(HOSTILE)
        tab.wait("figures.length == 2")
        title = tab.read("figures[0].name")
        assert HOSTILE in title
        assert any(HOSTILE in line for line in tab.hover(title, 1, 1.0))
        assert tab.page.get_by_text(HOSTILE).count() > 5
        for box in tab.page.locator(".slick-row input").all():
            box.click()
            tab.page.wait_for_load_state("networkidle")
        assert tab.read("window.hacked") is None
        assert tab.hosts() == set()
        assert [each for each in tab.requests if each.endswith("/x") or "mathjax" in each] == []


def add_contents(run: WrittenRun, step: int) -> None:
    """Record one of each kind; the image is ``step`` pixels wide."""
    run.media(Image, "val/parity", step, png(step, 20), ".png", width=step, height=20, caption=HOSTILE)
    run.media(Table, "val/errors", step, b'{"columns": ["element"], "rows": [["Xe"]]}', ".json")
    run.media(Histogram, "val/errors", step, edges=[0.0, 1.0], counts=[float(step)])
    run.media(Text, "run/command", step, HOSTILE.encode(), ".md")
    run.media(Artifact, "model/best", step, b"x", ".pt", file="best.pt", type="model")


def width(tab: Tab) -> int:
    """Return the width of the only image in pixels."""
    found: int = tab.page.locator("figure img").evaluate("image => image.naturalWidth")
    return found


def test_contents_are_shown_below_the_charts_and_earlier_ones_can_be_chosen(browser: Browser, run: WrittenRun) -> None:
    add_contents(run, 100)
    add_contents(run, 200)
    with serving([run.folder]) as server:
        tab = shown(browser, server.url)
        tab.page.get_by_text("val/parity at iteration 200").wait_for()
        assert width(tab) == 200
        for text in ("Xe", "200 values, up to 200 in a bin", "best.pt, model, 1 B"):
            tab.page.get_by_text(text).wait_for()
        slider = tab.page.locator(".noUi-handle")
        slider.press("ArrowLeft")
        tab.page.get_by_text("val/parity at iteration 100").wait_for()
        assert width(tab) == 100
        add_contents(run, 300)
        tab.page.locator(".noUi-handle[aria-valuemax='2.0']").wait_for()
        assert tab.page.get_by_text("val/parity at iteration 100").is_visible()
        slider.press("ArrowRight")
        tab.page.get_by_text("val/parity at iteration 200").wait_for()
        slider.press("ArrowRight")
        tab.page.get_by_text("val/parity at iteration 300").wait_for()
        add_contents(run, 400)
        tab.page.get_by_text("val/parity at iteration 400").wait_for()
        tab.press("images")
        tab.page.locator("figure img").wait_for(state="hidden")
        assert tab.page.get_by_text("Xe").is_visible()
        assert tab.page.locator("figure pre").inner_text() == HOSTILE
        assert tab.read("window.hacked") is None
        assert (tab.hosts(), tab.errors) == (set(), [])


def test_contents_of_several_runs_are_side_by_side(browser: Browser, run: WrittenRun) -> None:
    ice = WrittenRun(run.folder.parent / "ice", metrics=metrics())
    add_points(ice, 100, 500)
    for each in (run, ice):
        each.media(Image, "val/a", 100, png(30, 30), ".png", width=30, height=30)
        each.media(Image, "val/b", 100, png(30, 30), ".png", width=30, height=30)
    with serving([run.folder.parent]) as server:
        tab = shown(browser, server.url)
        tab.page.get_by_text("val/b · ice").wait_for()
        boxes = [tab.page.get_by_text(f"val/{n} · {r}").bounding_box() for n in "ab" for r in ("water", "ice")]
        tops = [box["y"] for box in boxes if box is not None]
        assert tops[0] == tops[1] < tops[2] == tops[3]


def test_metrics_that_first_appear_while_the_page_is_open_have_charts_with_units(
    browser: Browser, tmp_path: Path
) -> None:
    run = WrittenRun(tmp_path / "runs" / "other", metrics={})
    with serving([run.folder.parent]) as server:
        tab = Tab(browser, server.url)
        tab.page.get_by_text("No points yet").wait_for()
        run.update(metrics={"train/loss": Metric(unit="")}, params={"lr": 0.125})
        run.points("train", 1, {"loss": 2.0})
        tab.wait("figures.length == 1")
        run.update(metrics={"val/energy": Metric(unit="kcal/mol", label="energy", better="lower")})
        run.points("val", 2, {"energy": 3.0})
        tab.press("details")
        tab.wait("figures.length == 2")
        assert sorted(tab.titles()) == ["energy [kcal/mol]", "loss"]
        assert tab.points("energy [kcal/mol]", "val") == [(2, 3.0)]
        tab.page.get_by_text("All parameters (1)").click()
        assert tab.page.locator("details td").all_inner_texts() == ["0.125"]
        assert tab.errors == []


def test_charts_of_the_system_are_shown_on_demand_and_of_all_runs(browser: Browser, run: WrittenRun) -> None:
    ice = WrittenRun(run.folder.parent / "ice", metrics=metrics())
    for each in (run, ice):
        add_points(each, 2100, 2500)
        each.update(metrics={"system/memory": Metric(unit="GiB")})
        each.points("system", 2500, {"memory": 1.5})
    with serving([run.folder.parent]) as server:
        tab = shown(browser, server.url)
        assert tab.page.get_by_role("button", name="system", exact=True).count() == 1
        tab.press("system")
        tab.wait("figures.length == 6")
        for label in ("water", "ice"):
            assert tab.points("memory [GiB]", label) == [(2500, 1.5)]
