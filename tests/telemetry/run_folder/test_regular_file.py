"""Opening files: only regular ones in a run folder, and no links of other users for output."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from telemetry.run_folder.regular_file import open_output, open_regular

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can create the links of another user")
OTHER_USER = 54321


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_APPEND])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.symlink_to(path.with_name("target")), "a symbolic link"),
        (os.mkfifo, "a named pipe"),
        (make_socket, "a socket"),
        (Path.mkdir, "older"),
    ],
)
def test_anything_but_a_regular_file_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], what: str, flags: int
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    (tmp_path / "target").write_text("a regular file")
    path = Path("file")
    make(path)
    with pytest.raises(OSError, match=rf"{what}|s a directory|a folder") as raised:
        os.close(open_regular(path, flags))
    assert raised.value.errno in {errno.EINVAL, errno.EISDIR}
    assert raised.value.filename == "file"
    assert (tmp_path / "target").read_text() == "a regular file"


def test_a_device_is_not_a_regular_file() -> None:
    with pytest.raises(OSError, match="not a regular file but a device"):
        open_regular("/dev/zero")


def test_a_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    with open(tmp_path / "new", "w", opener=open_regular) as file:
        file.write("text")
    assert (tmp_path / "new").read_text() == "text"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


# Output files.


def write(path: Path, text: str = "output") -> None:
    with open(path, "w", opener=open_output) as file:
        file.write(text)


def test_output_goes_to_a_new_file_an_existing_one_or_the_target_of_a_link_of_the_user(tmp_path: Path) -> None:
    write(tmp_path / "file", "a longer text")
    write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "output"
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "output"


@as_root
def test_output_does_not_go_through_the_link_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to("victim")
    os.chown(tmp_path / "link", OTHER_USER, -1, follow_symlinks=False)
    with pytest.raises(OSError, match="not a regular file but a symbolic link"):
        write(tmp_path / "link")
    assert (tmp_path / "victim").read_text() == "precious"


def test_output_to_a_named_pipe_requires_a_reader(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="a named pipe that nothing reads"):
        write(pipe)
    text = "x" * 200_000  # more than fits into the pipe
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    writer = threading.Thread(target=write, args=(pipe, text), daemon=True)
    with os.fdopen(reader) as file:
        writer.start()
        # The first read waits for the writer.
        received = "".join(iter(lambda: file.read(100_000), "")) if not _is_empty(file.fileno()) else ""
    writer.join(10)
    assert received == text


def _is_empty(fd: int) -> bool:
    import select

    return not select.select([fd], [], [], 10)[0]


def test_output_may_go_to_a_device() -> None:
    write(Path("/dev/null"))
