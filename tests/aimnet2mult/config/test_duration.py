"""Durations in the notations that people write."""

import pytest

from aimnet2mult.config.duration import parse_duration
from aimnet2mult.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("90min", 5400),
        ("1.5h", 5400),
        ("24 h", 86400),
        ("2d", 172800),
        ("12:00:00", 43200),
        ("0:05:30", 330),
        ("1-02:03:04", 93784),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "5:00", "0h", "0:00:00", "-1h", "1h30min", "inf s", "never"])
def test_another_text_is_rejected_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer.time_limit is '.*': expected auto, or a duration such as 90min"):
        parse_duration(text)
