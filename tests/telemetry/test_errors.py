"""Messages of exceptions, which come from users, files and servers, are safe and bounded."""

from __future__ import annotations

import time

import pytest

from telemetry.errors import MAX_MESSAGE_LENGTH, error_text, format_error
from telemetry.redaction import remember_credentials


class RaisingError(Exception):
    def __str__(self) -> str:
        msg = "no message"
        raise RuntimeError(msg)


class NumberError(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307


@pytest.mark.parametrize("error", [RaisingError(), NumberError(), ValueError(), ValueError(" \n ")])
def test_an_error_without_a_usable_message_is_named_by_its_type(error: Exception) -> None:
    assert format_error(error) == type(error).__name__
    assert error_text(error) == ""


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("two\nlines\tand  spaces", "two lines and spaces"),
        ("a\x1b[31mred\x07\x9b", "a [31mred"),
        ("\x1b]52;c;cGFzdGVk\x07", "]52;c;cGFzdGVk"),
        ("a\u202etxt.exe\u200b", "a txt.exe"),
        ("lone \udcff surrogate", "lone \\udcff surrogate"),
        ("line\u2028error: forged", "line error: forged"),
        ("login at https://me:hunter2@host", "login at https://***@host"),
    ],
)
def test_a_message_is_one_printable_line_without_credentials(message: str, shown: str) -> None:
    text = error_text(ValueError(message))
    assert " ".join(text.split()) == shown
    assert text.isprintable()
    assert format_error(ValueError(message)) == f"ValueError: {text}"


def test_the_name_of_the_type_is_printable_and_bounded() -> None:
    error = type("Bad\x1b[31m" + "x" * 1000, (Exception,), {})("why")
    assert format_error(error).isprintable()
    assert format_error(error).endswith("x: why")
    assert len(format_error(error)) < 150


def test_a_huge_message_is_truncated_quickly() -> None:
    start = time.process_time()
    text = error_text(ValueError("x\x1b" * 5_000_000))
    assert len(text) == MAX_MESSAGE_LENGTH
    assert text.endswith("…")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("position", range(MAX_MESSAGE_LENGTH - 30, MAX_MESSAGE_LENGTH + 5))
def test_no_part_of_a_credential_remains_where_a_message_is_truncated(position: int) -> None:
    remember_credentials(["hunter2hunter2"])
    for text in ("hunter2hunter2", "https://me:hunter3hunter3@host/"):
        assert "hun" not in error_text(ValueError("x" * position + " " + text + " and more" * 100))


class Nameless(type):
    """A metaclass of classes whose name cannot be determined."""

    @property
    def __name__(cls) -> str:
        raise RuntimeError


def test_an_error_of_a_class_without_a_readable_name_can_be_formatted() -> None:
    kind = Nameless("Kind", (Exception,), {})
    assert format_error(kind("why")) == "Exception: why"
