"""The terminal view: which plots it contains and how they are laid out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from support.written_runs import WrittenRun, add_training
from telemetry import Metric, read_run
from telemetry.display.dashboard import MAX_MEDIA, Dashboard
from telemetry.display.text_width import width_of
from telemetry.records import Histogram, Image, Text

pytest.importorskip("plotext")
MAIN = Metric(unit="kcal/mol", better="lower", main=True)


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    return WrittenRun(tmp_path / "water")


def lines_of(*runs: WrittenRun, **layout: Any) -> list[str]:
    layout = {"width": 80, "height": 14} | layout
    return Dashboard(**layout).lines([read_run(run.folder) for run in runs])


@pytest.mark.parametrize("width", [30, 80, 100, 150, 230])
def test_plots_fit_the_width_and_are_placed_side_by_side_in_wide_terminals(run: WrittenRun, width: int) -> None:
    add_training(run)
    lines = lines_of(run, width=width)
    assert max(map(width_of, lines)) <= width
    assert max(line.count("┌") for line in lines) == max(1, (width + 2) // 74)


@pytest.mark.parametrize(("width", "rows", "fits"), [(80, 24, False), (100, 40, True), (200, 60, True)])
def test_the_five_main_charts_fit_into_a_large_terminal(tmp_path: Path, width: int, rows: int, fits: bool) -> None:
    run = WrittenRun(tmp_path / "run", metrics={f"{s}/{q}": MAIN for s in ("train", "val") for q in "abcde"})
    for stream in ("train", "val"):
        for step in range(1, 50):
            run.points(stream, step, dict.fromkeys("abcde", 1 / step))
    lines = lines_of(run, width=width, rows=rows, height=None)
    assert sum(line.count("┌") for line in lines) == 5
    assert (len(lines) < rows) is fits
    followed = lines_of(run, width=width, rows=rows, height=None, follow=True)
    assert len(followed) < rows
    assert any("more charts do not fit" in line for line in followed) is not fits


def test_of_several_runs_only_the_validation_is_shown_by_default(run: WrittenRun, tmp_path: Path) -> None:
    other = WrittenRun(tmp_path / "ice")
    add_training(run)
    add_training(other, 2.0)
    lines = lines_of(run, other)
    # Only the learning rate has no validation.
    legend = [line.partition(" at ")[0] for line in lines if " at 2000" in line]
    assert legend == ["o water val", "+ ice val", "x water train", "* ice train"]
    assert lines[-1] == "not shown: gfn1 (--all shows everything)"


def test_several_runs_share_the_plots(run: WrittenRun, tmp_path: Path) -> None:
    other = WrittenRun(tmp_path / "ice")
    add_training(run)
    add_training(other, 2.0)
    lines = lines_of(run, other, patterns=("train/loss",))
    assert lines[0].startswith("water (water)")
    assert any(line.startswith("ice (ice)") for line in lines[:4])
    legend = [line for line in lines if line.startswith(("+ ", "o "))]
    assert [line.partition(" at ")[0] for line in legend] == ["o water train", "+ ice train"]


def test_alerts_are_listed_and_marked_in_the_plot(run: WrittenRun) -> None:
    add_training(run)
    run.alert(500, "a spike", text="3 times the median", level="error")
    run.alert(600, "over", recovered=True)
    lines = lines_of(run, patterns=("lr",))
    assert lines[-2:] == ["! iteration 500, error: a spike: 3 times the median", "  iteration 600, warning: over"]
    assert sum(line.count("!") for line in lines[1:-2]) == 1


def test_of_many_alerts_only_the_newest_are_listed(run: WrittenRun) -> None:
    add_training(run)
    for step in range(100, 1400, 100):
        run.alert(step, "a spike")
    lines = lines_of(run, patterns=("lr",))
    assert lines[-4:-2] == ["10 earlier alerts", "! iteration 1100, warning: a spike"]


def test_the_newest_file_of_each_name_is_listed(run: WrittenRun, tmp_path: Path) -> None:
    add_training(run)
    for step in (100, 200):
        run.media(Image, "val/parity", step, b"%d" % step, ".png", width=1, height=1)
    run.media(Histogram, "val/parity", 200, edges=[0.0, 1.0, 2.0], counts=[1.0, 2.0])
    expected = [
        f"image val/parity at iteration 200: blobs/{hashlib.sha256(b'200').hexdigest()[:12]}*.png",
        "histogram val/parity at iteration 200: 2 bins",
    ]
    assert lines_of(run)[-3:-1] == expected
    (found,) = run.folder.glob(expected[0].rpartition(" ")[2])
    assert found.read_bytes() == b"200"
    assert not [line for line in lines_of(run, follow=True, rows=40) if "val/parity" in line]
    other = WrittenRun(tmp_path / "ice")
    for number in range(MAX_MEDIA + 1):
        other.media(Text, f"val/{number}", 100)
    other.close()
    assert lines_of(other)[1] == "no points yet"
    assert lines_of(other)[-1] == "1 more (--all lists everything)"
    assert len(lines_of(other, all_charts=True)) == MAX_MEDIA + 3
    assert any(line.startswith("text val/0 of ice at iteration 100: blobs/") for line in lines_of(run, other))


def test_the_system_is_hidden_and_named_once(run: WrittenRun) -> None:
    run.update(metrics={"system/memory": Metric(unit="GiB")})
    run.points("train", 1, {"loss": 1.0})
    run.points("system", 1, {"memory": 1.0})
    assert lines_of(run)[-1] == "not shown: system (--all shows everything)"


def test_a_run_without_points_has_a_note_instead_of_plots(run: WrittenRun) -> None:
    assert lines_of(run)[-1] == "no points yet"
    run.point("train/loss", 1, 1.0)
    assert lines_of(run, patterns=("val/*",))[-1] == "no points for these metrics yet"


@pytest.mark.parametrize("height", [5, 14])
def test_the_largest_and_smallest_numbers_are_drawn(run: WrittenRun, height: int) -> None:
    largest, smallest = 1.7976931348623157e308, 5e-324
    for step in range(20):
        run.points(
            "train",
            step,
            {"loss": (-1) ** step * largest, "E_rmse": smallest * (step % 2), "lr": largest / (step + 1)},
        )
    run.point("val/loss", (1 << 62) // 1001, 1.0)
    run.point("val/E_rmse", 0, 1e-310)
    run.points("big", 3, {"x": 1e300})
    lines = lines_of(run, patterns=("*",), height=height)
    assert sum("┌" in line for line in lines) == 4
