"""Thousands of damaged data files and checkpoints: an error in one line, no crash, and no hang."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos

PARTS = 4
MEMORY = 6 * 2**30
"""Bound of the address space in bytes, several times what torch takes."""


@pytest.mark.parametrize("kind", ["hdf5", "checkpoint"])
def test_damaged_files_are_refused_with_one_line(
    tmp_path: Path, count: int, figures: Callable[[object], None], kind: str
) -> None:
    cases, refused, longest = 10 * count // PARTS, 0, 0.0
    for part in range(PARTS):
        folder = tmp_path / f"{kind}-{part}"
        folder.mkdir()
        words = ["-m", "support.damage_cases", kind, part * cases, cases, folder]
        bounded = f'ulimit -v {MEMORY // 1024}; exec "$@"'
        done = subprocess.run(
            ["/bin/sh", "-c", bounded, "sh", sys.executable, "-W", "ignore", *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
        )
        case = (folder / "case").read_text() if (folder / "case").exists() else "none"
        assert done.returncode == 0, f"case {case}: {done.stderr[-3000:]}"
        found = re.search(r"refused (\d+) longest ([\d.]+)", done.stdout)
        assert found, done.stdout
        refused, longest = refused + int(found[1]), max(longest, float(found[2]))
    assert 0.3 * PARTS * cases < refused < PARTS * cases
    figures(f"{PARTS * cases:,} files, {refused:,} refused, none crashed; the longest took {longest:.1f} s")
