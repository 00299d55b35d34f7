"""The commits and changes of the code of a run, in real repositories."""

import subprocess
import time
from pathlib import Path

import pytest

from aimnet2mult.train.code_version import MAX_DIFF, describe_code


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with a package of losses, which Python can import, and a second one that is not committed."""
    git(tmp_path, "init", "-q")
    for name in ("somelosses", "venvpackage"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("SCALE = 1\n")
    git(tmp_path, "add", "somelosses")
    git(tmp_path, "commit", "-q", "-m", "First losses")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_package_in_a_repository_has_a_commit(repository: Path) -> None:
    text = describe_code(["somelosses"])
    assert text.startswith(f"somelosses: {repository}\n\ncommit {git(repository, 'rev-parse', 'HEAD')} ")
    assert text.endswith(" First losses\n\nno uncommitted changes of tracked files")


def test_uncommitted_changes_are_part_of_the_text(repository: Path) -> None:
    (repository / "somelosses/__init__.py").write_text("SCALE = 2\n")
    git(repository, "add", "-A", "somelosses")
    text = describe_code(["somelosses"])
    assert "\n    -SCALE = 1\n    +SCALE = 2" in text


def test_a_long_change_is_cut_off(repository: Path) -> None:
    (repository / "somelosses/__init__.py").write_text("# a long comment\n" * MAX_DIFF)
    text = describe_code(["somelosses"])
    assert len(text) < 2 * MAX_DIFF
    assert text.endswith(" more characters")


def test_installed_packages_are_named_even_if_their_folder_is_in_a_repository(repository: Path) -> None:
    assert describe_code(["venvpackage", "nosuchpackage", "sys"]) == (
        "not in a git repository: venvpackage, nosuchpackage, sys"
    )


def test_without_git_or_with_one_that_fails_packages_are_named(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    start = time.monotonic()
    assert describe_code(["somelosses"]) == "not in a git repository: somelosses"
    assert time.monotonic() - start < 10


def test_programs_named_by_the_repository_are_not_executed(repository: Path) -> None:
    (repository / ".gitattributes").write_text("*.py diff=trap\n")
    for key in ("diff.trap.textconv", "diff.trap.command", "diff.external", "core.fsmonitor"):
        git(repository, "config", key, f"touch {repository}/executed; false")
    (repository / "somelosses/__init__.py").write_text("SCALE = 2\n")
    assert "+SCALE = 2" in describe_code(["somelosses"])
    assert not (repository / "executed").exists()
