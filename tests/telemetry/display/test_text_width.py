"""The width of text in a terminal."""

from __future__ import annotations

import pytest

from telemetry.display.text_width import cut, cut_middle, pad, width_of, wrap

TEXTS = [
    "",
    "abc",
    "水素結合",
    "e\u0301nergie",
    "RMSE of energy [kcal/mol/Å]",
    "x" * 50,
    "水 " * 30,
    "\x1b[2J\t",
]


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    assert [width_of(text) for text in ("abc", "水素", "e\u0301", "\x1b[94mab\x1b[0m")] == [3, 4, 1, 2]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("columns", range(1, 40, 3))
def test_no_result_is_wider_than_requested(text: str, columns: int) -> None:
    assert width_of(cut(text, columns)) <= columns
    assert width_of(cut_middle(text, columns)) <= columns
    if columns >= 4:  # the indentation and a wide character
        assert all(width_of(line) <= columns for line in wrap(text, columns))
        words = "".join(wrap(text, columns)).split()
        assert "".join(words) == "".join(text.replace("\x1b", "").split())


def test_the_middle_is_replaced() -> None:
    assert cut_middle("sample-20261127-093000", 12) == "sampl…093000"
    assert cut_middle("water", 12) == "water"


def test_wrapped_lines_are_indented() -> None:
    assert wrap("one two three four", 9) == ["one two", "  three", "  four"]
    assert wrap("  one two", 6) == ["  one", "  two"]


def test_padding_counts_columns() -> None:
    assert pad("水", 4) == "水  "
    assert pad("水", 4, right=True) == "  水"
