"""Permissions of run folders: private, or readable by the group, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry.run_folder.atomic_write import atomic_write, private_opener
from telemetry.run_folder.permissions import Mode, file_mode, make_folder, make_run_folder, mode_of, umask_of


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask of the user."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize(
    ("folder", "mode"),
    [
        (0o700, "private"),
        (0o750, "group"),
        (0o770, "group"),
        (0o2750, "group"),
        (0o755, "private"),  # as created by earlier versions
        (0o777, "private"),
        (0o740, "private"),
        (0o710, "private"),
        (0o751, "private"),
    ],
)
def test_the_permissions_of_a_folder_determine_those_of_new_files(tmp_path: Path, folder: int, mode: Mode) -> None:
    tmp_path.chmod(folder)
    assert mode_of(tmp_path) == mode
    assert file_mode(tmp_path) == {"private": 0o600, "group": 0o640}[mode]


def test_a_folder_that_does_not_exist_is_private(tmp_path: Path) -> None:
    assert mode_of(tmp_path / "absent") == "private"


@pytest.mark.parametrize(("mode", "folder", "file"), [("private", 0o700, 0o600), ("group", 0o750, 0o640)])
def test_a_run_folder_and_everything_in_it_have_the_permissions_of_its_mode_whatever_the_umask(
    tmp_path: Path, umask: int, mode: Mode, folder: int, file: int
) -> None:
    run = tmp_path / "new" / "runs" / "run"
    make_run_folder(run, mode)
    assert make_folder(run / "sinks")
    assert not make_folder(run / "sinks")
    atomic_write(run / "sinks" / "a.json", b"1")
    with open(run / "a.log", "a", opener=private_opener) as log:
        log.write("line")
    assert {permissions(run), permissions(run.parent), permissions(run.parents[1]), permissions(run / "sinks")} == {
        folder
    }
    assert {permissions(run / "sinks" / "a.json"), permissions(run / "a.log")} == {file}


def test_a_file_for_the_user_has_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o750)
    atomic_write(tmp_path / "w.pt", b"1", mode=0o666)
    assert permissions(tmp_path / "w.pt") == 0o666 & ~umask


@pytest.mark.parametrize(
    ("before", "mode", "after"),
    [
        (0o755, "private", 0o755),
        (0o750, "private", 0o700),
        (0o755, "group", 0o750),
        (0o770, "group", 0o770),
        (0o2755, "group", 0o2750),
        (0o2750, "private", 0o2700),
    ],
)
def test_an_existing_folder_is_changed_only_if_its_mode_differs(
    tmp_path: Path, before: int, mode: Mode, after: int
) -> None:
    tmp_path.chmod(before)
    make_run_folder(tmp_path, mode)
    assert permissions(tmp_path) == after


def test_folders_in_a_folder_that_passes_its_group_on_do_so_too(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    run = tmp_path / "run"
    make_run_folder(run, "group")
    make_folder(run / "sinks")
    assert permissions(run) == permissions(run / "sinks") == 0o2750
    assert (run / "sinks").stat().st_gid == tmp_path.stat().st_gid


def test_a_run_folder_may_be_a_link_but_not_a_folder_in_it(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    run = tmp_path / "run"
    run.symlink_to("scratch")
    make_run_folder(run, "private")
    (run / "checkpoints").symlink_to(tmp_path)
    (run / "sae").write_text("a file")
    with pytest.raises(NotADirectoryError, match="checkpoints is a link instead of a folder"):
        make_folder(run / "checkpoints")
    with pytest.raises(NotADirectoryError, match="sae is a file instead of a folder"):
        make_folder(run / "sae")


def test_a_process_can_adopt_the_permissions_of_a_run_for_a_while(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    before = os.umask(0o022)
    try:
        with umask_of(tmp_path):
            (tmp_path / "by a backend").touch()
            (tmp_path / "folder").mkdir()
        (tmp_path / "later").touch()
    finally:
        assert os.umask(before) == 0o022
    assert permissions(tmp_path / "by a backend") == 0o640
    assert permissions(tmp_path / "folder") == 0o750
    assert permissions(tmp_path / "later") == 0o644


def test_the_folder_of_another_user_cannot_become_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder such as /tmp, somebody else may have created it beforehand."""
    tmp_path.chmod(0o777)
    if os.geteuid():
        owner = os.stat_result((*tmp_path.stat()[:4], os.geteuid() + 1, *tmp_path.stat()[5:]))
        monkeypatch.setattr(Path, "stat", lambda *_, **__: owner)
    else:
        os.chown(tmp_path, 65534, -1)
    with pytest.raises(PermissionError, match="it belongs to another user"):
        make_run_folder(tmp_path, "private")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
