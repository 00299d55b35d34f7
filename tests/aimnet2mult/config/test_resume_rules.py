"""Runs with a given name are found, newest first."""

from pathlib import Path

from aimnet2mult.config.resume_rules import list_newest_first, run_name_at


def test_runs_are_sorted_by_start_time_and_number(tmp_path: Path) -> None:
    names = ["a-20250102-030405", "a-20250102-030405-2", "a-20250102-030405-10", "a-20241231-235959"]
    others = ["a-b-20260101-000000", "ab-20260101-000000", "a-20260101", "a-20260101-000000-x"]
    for name in (*names, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.yaml").touch()
    (tmp_path / "a-20270101-000000").mkdir()
    found = [folder.name for folder in list_newest_first("a", tmp_path)]
    assert found == ["a-20250102-030405-10", "a-20250102-030405-2", "a-20250102-030405", "a-20241231-235959"]


def test_a_new_run_is_found_by_its_name(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / run_name_at("r.1", 1.5e9, number)
        folder.mkdir()
        (folder / "train.yaml").touch()
        assert list_newest_first("r.1", tmp_path)[0] == folder


def test_the_folder_of_the_runs_may_not_exist_yet(tmp_path: Path) -> None:
    assert list_newest_first("a", tmp_path / "runs") == []
