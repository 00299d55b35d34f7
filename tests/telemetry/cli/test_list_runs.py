"""``telemetry list``: options, unreadable folders and errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner, Result

from support.written_runs import WrittenRun
from telemetry import Metric
from telemetry.cli import main


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def listed(*args: object) -> Result:
    return CliRunner().invoke(main, ["list", *map(str, args)])


def rows(result: Result) -> dict[str, list[str]]:
    """Return the other cells of each line by its first cell; cells are separated by two spaces."""
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in result.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_the_lowest_value_of_a_given_metric_is_shown_with_its_unit(runs: Path) -> None:
    run = WrittenRun(runs / "a")
    run.point("val/E_rmse", 100, 3.5)
    run.point("val/E_rmse", 200, 4.5)
    assert rows(listed(runs, "--best", "val/E_rmse"))["a"][-1] == "3.5 kcal/mol at 100"


def test_the_best_r2_is_the_highest_also_in_runs_that_do_not_declare_its_direction(runs: Path) -> None:
    for name, metrics in (("a", {"val/E_r2": Metric(better="higher")}), ("b", {"val/E_r2": Metric()}), ("c", {})):
        run = WrittenRun(runs / name, metrics=metrics)
        for step, value in enumerate([-4.0, 0.98, 0.97]):
            run.point("val/E_r2", step, value)
    found = rows(listed(runs, "--best", "val/E_r2"))
    assert found["run"][-1] == "highest val/E_r2"
    assert {found[name][-1] for name in "abc"} == {"0.98 at 1"}


@pytest.mark.parametrize(
    ("metric", "order"), [("val/E_rmse", ["b", "c", "a", "d"]), ("val/E_r2", ["a", "c", "b", "d"])]
)
def test_the_best_run_of_a_given_metric_comes_first(runs: Path, metric: str, order: list[str]) -> None:
    for name, value in (("a", 0.9), ("b", 0.1), ("c", 0.5), ("d", None)):
        run = WrittenRun(runs / name)
        if value is not None:
            run.point(metric, 1, value)
    assert list(rows(listed(runs, "--best", metric)))[1:5] == order


def test_runs_that_disagree_about_the_direction_show_their_best_values(runs: Path) -> None:
    declared: dict[str, Literal["lower", "higher"]] = {"a": "higher", "b": "lower"}
    for name, better in declared.items():
        run = WrittenRun(runs / name, metrics={"val/score": Metric(better=better)})
        run.point("val/score", 1, 1.0)
        run.point("val/score", 2, 2.0)
    found = rows(listed(runs, "--best", "val/score"))
    assert (found["run"][-1], found["a"][-1], found["b"][-1]) == ("best val/score", "2 at 2", "1 at 1")


def test_an_unknown_metric_is_an_error_that_suggests_a_similar_one(runs: Path) -> None:
    WrittenRun(runs / "a")
    result = listed(runs, "--best", "val/E_rms")
    assert result.exit_code == 2
    assert "no metric 'val/E_rms'. Did you mean 'val/E_rmse'?" in result.stderr


def test_an_undeclared_error_is_found_by_its_values(runs: Path) -> None:
    run = WrittenRun(runs / "a", metrics={})
    run.point("test/E_rmse", 100, 0.5)
    assert rows(listed(runs, "--best", "test/E_rmse"))["a"][-1] == "0.5 at 100"


def test_a_metric_without_a_direction_has_no_best_value(runs: Path) -> None:
    WrittenRun(runs / "a").point("train/lr", 100, 0.5)
    result = listed(runs, "--best", "train/lr")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --best train/lr: neither lower nor higher values of this metric are better (Metric.better)\n"
    )


def test_quick_omits_the_lowest_value(runs: Path) -> None:
    WrittenRun(runs / "a").point("val/loss", 100, 3.5)
    result = listed(runs, "--quick")
    assert "lowest" not in result.stdout
    assert len(rows(result)["a"]) == 4
    conflict = listed(runs, "--quick", "--best", "val/loss")
    assert conflict.exit_code == 2
    assert "--quick omits the value that --best val/loss requests" in conflict.stderr


def test_a_run_folder_is_listed_by_itself(runs: Path) -> None:
    WrittenRun(runs / "a").close()
    assert list(rows(listed(runs / "a"))) == ["run", "a"]


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "not a run").mkdir()
    for folder in (tmp_path, tmp_path / "nowhere"):
        result = listed(folder)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")


def test_the_status_of_a_run_whose_trainer_cannot_be_checked_is_explained(runs: Path) -> None:
    WrittenRun(runs / "a").point("train/loss", 1, 1.0)
    result = listed(runs)
    assert rows(result)["a"][0] == "unseen"
    assert result.stdout.endswith("unseen: running or killed; the trainer cannot be checked from here\n")


def test_unreadable_folders_are_listed_and_do_not_hide_the_others(runs: Path) -> None:
    WrittenRun(runs / "good").close()
    newer = WrittenRun(runs / "newer", schema=99)
    newer.close()
    (runs / "empty").mkdir()
    (runs / "file").write_text("x")
    (runs / "torn").mkdir()
    (runs / "torn" / "journal-0.jsonl").write_bytes(b"\xff\0" * 1000)
    (runs / "folder").mkdir()
    (runs / "folder" / "journal-0.jsonl").mkdir()
    os.mkfifo(runs / "folder" / "journal-1.jsonl")
    (runs / "link").symlink_to("link")
    found = rows(listed(runs))
    assert list(found) == ["run", "good", "folder", "newer", "torn"]
    assert found["good"][0] == "finished"
    assert found["newer"][0].startswith("cannot be read: ")
    assert "schema 99" in found["newer"][0]
    assert "no run in" in found["torn"][0]


def test_names_cannot_control_the_terminal(runs: Path) -> None:
    WrittenRun(runs / "a\x1b[2J\r\n").close()
    WrittenRun(runs / "b", metrics={"val/loss": Metric(unit="\x1b]0;x\x07\x9b")}, sinks={"file": {}}).point(
        "val/loss", 1, 1.0
    )
    result = listed(runs)
    assert result.exit_code == 0
    assert not set(result.stdout) & set("\x1b\x07\x9b\r")


def test_a_folder_that_does_not_exist_is_named_with_its_full_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 2
    remedy = "start a run here, or give the folder that contains the run folders"
    assert result.stderr == f"error: there is no folder {tmp_path / 'runs'}; {remedy}\n"
