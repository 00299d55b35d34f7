"""Output of delivery processes is filtered line by line and never fails."""

from __future__ import annotations

import io

from telemetry.delivery.log_stream import MAX_LINE_LENGTH, LogStream


class FullDisk(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_credentials_are_removed_even_if_a_line_is_written_in_parts() -> None:
    output = io.StringIO()
    stream = LogStream(output)
    for part in ("to https://me:hun", "ter2@host", "\nnext \x1b[2J", "\n", "incomplete"):
        stream.write(part)
    stream.flush()
    assert output.getvalue() == "to https://***@host\nnext  [2J\n"


def test_memory_is_bounded_if_a_line_never_ends() -> None:
    output = io.StringIO()
    stream = LogStream(output)
    for _ in range(10):
        stream.write("x" * MAX_LINE_LENGTH)
    assert len(output.getvalue()) > 4 * MAX_LINE_LENGTH
    assert max(map(len, output.getvalue().split("\n"))) == MAX_LINE_LENGTH


def test_a_full_disk_raises_no_error() -> None:
    stream = LogStream(FullDisk())
    assert stream.write("a line\n") == 7
    stream.flush()


def test_programs_print_no_colors_even_on_a_terminal() -> None:
    assert not LogStream(Terminal()).isatty()
