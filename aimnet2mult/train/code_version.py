"""The version of the code: commits and uncommitted changes of the repositories that contain it."""

import os
import subprocess
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

__all__ = ["describe_code"]

TIMEOUT = 20
"""Maximum duration of a git command in seconds."""
MAX_DIFF = 200_000
"""Maximum number of characters of the changes in a repository."""


def describe_code(packages: Sequence[str]) -> str:
    """Return, in Markdown, the commit and the uncommitted changes of the repositories that contain some packages.

    Packages outside repositories, which are installed, are named only.
    """
    roots: dict[Path, list[str]] = {}
    installed = []
    for name in packages:
        file = _file_of(name)
        root = None if file is None else _repository(file)
        if root is None:
            installed.append(name)
        else:
            roots.setdefault(root, []).append(name)
    parts = [_describe(root, names) for root, names in roots.items()]
    return "\n\n".join([*parts, *([f"not in a git repository: {', '.join(installed)}"] if installed else [])])


def _describe(root: Path, names: Sequence[str]) -> str:
    commit = _git(root, "log", "-1", "--format=%H %cI %s") or "no commit"
    text = f"{', '.join(names)}: {root}\n\ncommit {commit.strip()}"
    changes = _git(root, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color")
    if not changes:
        return f"{text}\n\nno uncommitted changes of tracked files"
    more = f"\n… {len(changes) - MAX_DIFF:,} more characters" if len(changes) > MAX_DIFF else ""
    indented = "\n".join(f"    {line}" for line in changes[:MAX_DIFF].splitlines())
    return f"{text}\n\nuncommitted changes:\n\n{indented}{more}"


def _file_of(package: str) -> Path | None:
    """Return a file of a package; None if it has none."""
    try:
        spec: ModuleSpec | None = find_spec(package)
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _repository(file: Path) -> Path | None:
    """Return the repository that contains a file, which may also be installed into a folder inside a repository."""
    folder = file.parent
    if not folder.is_dir() or not _git(folder, "ls-files", "--error-unmatch", file.name):
        return None
    root = _git(folder, "rev-parse", "--show-toplevel")
    return Path(root.strip()) if root else None


def _git(folder: Path, *arguments: str) -> str:
    """Return the output of git; "" if it fails, is not installed or takes too long."""
    # Neither hooks of the repository nor locks, which could disturb commands of the user.
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.decode(errors="replace")
