"""The lines of a segment, whole, damaged or too long, and the positions after them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.segment_files import scalars
from telemetry.journal.codec import MAX_LINE, encode
from telemetry.journal.segment_lines import lines, open_segment

GOOD = [scalars(seq) for seq in range(1, 7)]
CONTENT = [
    encode(GOOD[0]),
    b"damaged\n",
    encode(GOOD[1]),
    b"x" * (MAX_LINE + 10) + b"\n",
    encode(GOOD[2]),
    b"\n",
    b"x" * (3 * MAX_LINE) + b"\n",
    encode(GOOD[3]),
    encode(GOOD[4]),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal-0.jsonl"


def test_damaged_and_too_long_lines_are_none_and_empty_ones_are_left_out(path: Path) -> None:
    path.write_bytes(b"".join(CONTENT))
    found = [record for record, _ in lines(path, 0)]
    assert found == [GOOD[0], None, GOOD[1], None, GOOD[2], None, GOOD[3], GOOD[4]]


@pytest.mark.parametrize("end", [b"", b"torn", b"x" * (2 * MAX_LINE)], ids=["whole", "torn", "too long"])
def test_reading_can_continue_after_each_line(path: Path, end: bytes) -> None:
    path.write_bytes(b"".join(CONTENT) + end)
    found = list(lines(path, 0, tail=True))
    assert (found[-1][0] is None) == bool(end)
    for number, (_, offset) in enumerate(found, 1):
        assert list(lines(path, offset, tail=True)) == found[number:]
    assert found[-1][1] == path.stat().st_size


@pytest.mark.parametrize("tail", [True, False])
def test_an_incomplete_last_line_is_reported_on_request(path: Path, tail: bool) -> None:
    path.write_bytes(CONTENT[0] + CONTENT[2][:-1])
    assert [record for record, _ in lines(path, 0, tail=tail)] == [GOOD[0], *([None] * tail)]


def test_a_line_is_read_once_it_is_complete(path: Path) -> None:
    path.write_bytes(CONTENT[0] + CONTENT[2][:5])
    ((_, offset),) = lines(path, 0)
    with path.open("ab") as file:
        file.write(CONTENT[2][5:])
    assert [record for record, _ in lines(path, offset)] == [GOOD[1]]


def test_only_regular_files_are_opened_and_none_stays_open(path: Path, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    assert open_segment(path) is None
    path.mkdir()
    assert list(lines(path, 0)) == []
    os.mkfifo(tmp_path / "fifo")
    assert list(lines(tmp_path / "fifo", 0)) == []
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    assert list(lines(tmp_path / "link", 0)) == []
    (tmp_path / "file").write_bytes(CONTENT[0])
    assert len(list(lines(tmp_path / "file", 0))) == 1
    assert os.listdir("/proc/self/fd") == before
