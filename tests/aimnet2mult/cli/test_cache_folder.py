"""A cache folder that cannot be written to is replaced, and nobody else's folder is used for it."""

import os
import resource
from pathlib import Path

import pytest

from aimnet2mult.cli.cache_folder import VARIABLES, ensure_cache_folder
from aimnet2mult.errors import ConfigError


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the process an environment, a home and a folder for temporary files of its own."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for variable in VARIABLES:
        os.environ.pop(variable, None)
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    os.environ["HOME"] = str(tmp_path / "home")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


def replaced() -> dict[str, str]:
    ensure_cache_folder()
    return {variable: os.environ[variable] for variable in VARIABLES if variable in os.environ}


def shared(tmp_path: Path) -> Path:
    return tmp_path / "tmp" / f"aimnet2mult-cache-{os.getuid()}"


def test_a_writable_home_is_used_and_stays_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replaced() == {}
    assert list((tmp_path / "home").iterdir()) == []
    assert capsys.readouterr().err == ""


def test_without_a_writable_home_all_runs_share_a_private_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Not a folder, so that this holds for root as well.
    os.environ["HOME"] = "/dev/null/home"
    first = replaced()
    assert {Path(folder).parent for folder in first.values()} == {shared(tmp_path)}
    assert shared(tmp_path).stat().st_mode & 0o777 == 0o700
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: /dev/null/home/.cache: Not a directory, /dev/null/home/.triton/cache: Not a directory; "
        f"libraries keep their files in {shared(tmp_path)}"
    )
    for variable in VARIABLES:
        os.environ.pop(variable, None)
    assert replaced() == first


def test_only_the_first_rank_warns(capsys: pytest.CaptureFixture[str]) -> None:
    os.environ.update(HOME="/dev/null/home", WORLD_SIZE="2", RANK="1", LOCAL_RANK="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    assert replaced()
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert replaced().keys() == VARIABLES.keys()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "/home/.cache: File too large" in capsys.readouterr().err


def test_only_the_folder_that_cannot_be_written_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "home/.cache").mkdir()
    (tmp_path / "home/.cache/warp").symlink_to(tmp_path / "gone")
    assert list(replaced()) == ["WARP_CACHE_PATH"]


@pytest.mark.parametrize("what", ["link", "file", "open to others", "of somebody else"])
def test_a_temporary_folder_that_others_can_change_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    os.environ["HOME"] = "/dev/null/home"
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    if what == "link":
        shared(tmp_path).symlink_to(own)
    elif what == "file":
        shared(tmp_path).write_text("")
    else:
        shared(tmp_path).mkdir()
        shared(tmp_path).chmod(0o777 if what == "open to others" else 0o700)
    if what == "of somebody else":
        place = shared(tmp_path)
        monkeypatch.setattr(os, "getuid", lambda: 12_345)
        place.rename(shared(tmp_path))
    used = Path(replaced()["XDG_CACHE_HOME"]).parent
    assert used != shared(tmp_path)
    assert used.parent == tmp_path / "tmp"
    assert used.stat().st_mode & 0o777 == 0o700
    assert list(own.iterdir()) == []


def test_without_any_writable_folder_the_error_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["HOME"] = "/dev/null/home"
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/tmp")
    with pytest.raises(ConfigError, match=r"/dev/null/home/.cache: Not a directory, and a temporary folder .*TMPDIR"):
        ensure_cache_folder()
