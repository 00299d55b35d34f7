"""Atomic writes, and reading small JSON files."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.telemetry_fakes import HandMadeRun
from telemetry.run_folder import atomic_write as files
from telemetry.run_folder.atomic_write import (
    MAX_BYTES,
    atomic_write,
    private_opener,
    read_json,
    remove_temporary_files,
    write_json,
)
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.sink_progress import SinkProgress, write_progress


def test_a_written_value_is_read_back_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path, msgspec.json.Decoder(dict)) == {"a": 2}
    assert path.read_bytes() == b'{"a":2}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("fault", ["open", "write", "replace"])
def test_a_full_disk_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            os.close(self.fd)

        write = fail

    path = tmp_path / "x.json"
    write_json(path, 1)
    with monkeypatch.context() as patch:
        if fault == "write":
            patch.setattr(files.os, "fdopen", lambda fd, mode: Full(fd))
        else:
            patch.setattr(*((files.os, "open") if fault == "open" else (Path, "replace")), fail)
        with pytest.raises(OSError, match="No space"):
            write_json(path, 2)
    assert read_json(path, msgspec.json.Decoder(int)) == 1
    assert os.listdir(tmp_path) == ["x.json"]


def test_temporary_files_of_a_killed_writer_can_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "x[1].json", tmp_path / "x1.json"
    write_json(path, 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        for each in (path, path, other):
            with pytest.raises(KeyboardInterrupt):
                write_json(each, 2)
    assert len(os.listdir(tmp_path)) == 4
    remove_temporary_files(path)
    assert sorted(name[:7] for name in os.listdir(tmp_path)) == [".x1.jso", "x[1].js"]
    assert read_json(path, msgspec.json.Decoder(int)) == 1


def test_a_private_file_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").touch()
    (tmp_path / "log").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic"), open(tmp_path / "log", "ab", opener=private_opener):
        pass


def test_a_value_that_is_not_json_is_rejected_before_any_file_is_created(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", object())
    assert os.listdir(tmp_path) == []


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, ["0"] * 1000)
    done = threading.Event()

    def write() -> None:
        for n in range(200):
            write_json(path, [str(n)] * (1000 + n))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not done.is_set():
        value = read_json(path, msgspec.json.Decoder(list[str]))
        assert value is not None
        assert len(set(value)) == 1
        seen += 1
    writer.join()
    assert seen


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b'"text"', b"[" * 500_000, b"\xff", b"9" * 5000, b"1" + b" " * MAX_BYTES, b"1e999", b"\x00"],
    ids=lambda content: f"{content[:10]!r}… ({len(content)})",
)
def test_content_that_is_damaged_too_large_or_of_another_type_is_read_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert read_json(path, msgspec.json.Decoder(int)) is None
    assert read_json(path, msgspec.json.Decoder(SinkProgress)) is None


@pytest.mark.parametrize("what", ["nothing", "symlink", "FIFO", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.json"
    write_json(tmp_path / "other.json", 1)
    if what == "symlink":
        path.symlink_to(tmp_path / "other.json")
    elif what == "FIFO":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    assert read_json(path, msgspec.json.Decoder(int)) is None


@given(st.binary(max_size=100))
@settings(deadline=None, max_examples=100)
def test_reading_arbitrary_bytes_never_raises(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    read_json(path, msgspec.json.Decoder(SinkProgress))


INTERRUPTED = """
import os, sys
from pathlib import Path
from telemetry.run_folder.heartbeat import read_heartbeat
from telemetry.run_folder.lease import Lease
from telemetry.run_folder.sink_progress import read_progress
from telemetry.journal.reader import read_header

folder = Path(sys.argv[1])
lease = Lease(folder / "sinks", "sink")
READS = {
    "alive": lambda: read_heartbeat(folder),
    "lease": lease.holder,
    "progress": lambda: read_progress(folder, "sink"),
    "journal": lambda: read_header(folder),
}
read = READS[sys.argv[2]]


def interrupt(left):
    def trace(*_):
        nonlocal left
        left -= 1
        if not left:
            sys.settrace(None)
            read()
        return trace

    sys.settrace(trace)
    read()


for when in range(1, 1200, 70):
    pid = os.fork()
    if not pid:
        interrupt(when)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, (when, code)
"""


@pytest.mark.parametrize("what", ["alive", "lease", "progress", "journal"])
def test_a_signal_handler_or_another_thread_may_read_a_file_during_its_first_reading(tmp_path: Path, what: str) -> None:
    run = HandMadeRun(tmp_path / "run")
    write_progress(run.folder, "sink", SinkProgress())
    assert Lease(run.folder / "sinks", "sink").try_acquire()
    subprocess.run([sys.executable, "-c", INTERRUPTED, run.folder, what], check=True, timeout=60)


def test_only_a_synced_file_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    write_json(tmp_path / "x.json", 1, sync=False)
    assert synced == []
    write_json(tmp_path / "x.json", 2)
    assert len(synced) == 2, "the file and its folder"


def test_the_content_is_complete_when_it_is_synced_and_its_name_is_synced_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[object] = []

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        synced.append(sorted(os.listdir(path)) if path.is_dir() else path.read_bytes())

    monkeypatch.setattr("os.fsync", fsync)
    atomic_write(tmp_path / "x.json", b"all of it")
    assert synced == [b"all of it", ["x.json"]]


def test_reading_and_writing_leave_no_file_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    write_json(tmp_path / "x.json", 1)
    assert read_json(tmp_path / "x.json", msgspec.json.Decoder(int)) == 1
    assert read_json(tmp_path / "fifo", msgspec.json.Decoder(int)) is None
    assert os.listdir("/proc/self/fd") == before


def test_a_file_system_that_refuses_to_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuse_folders(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(fd)

    monkeypatch.setattr("os.fsync", refuse_folders)
    write_json(tmp_path / "x.json", 1)
    assert (tmp_path / "x.json").read_text(encoding="utf-8").strip() == "1"


def test_the_name_of_a_temporary_file_cannot_be_predicted_and_is_not_taken_over(tmp_path: Path) -> None:
    names: list[str] = []
    for _ in range(2):
        atomic_write(tmp_path / "w.pt", lambda _: names.extend(path.name for path in tmp_path.glob(".w.pt.*")))
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"\.w\.pt\.[0-9a-f]{16}\.tmp", name) for name in names)


def test_only_temporary_files_of_the_same_file_are_removed(tmp_path: Path) -> None:
    temporary = [".w.pt.0123456789abcdef.tmp", ".w.pt.4711.12.tmp"]
    others = ["w.pt", ".w.pt.notes.tmp", ".w.pt.tmp", ".w2.pt.4711.12.tmp", "w.pt.4711.12.tmp", ".wxpt.4711.12.tmp"]
    for name in temporary + others:
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path / "w.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
