"""Checksums of concatenated data."""

import random
import zlib

import pytest

from aimnet2mult.data.crc import combine_crc, repeat_crc


@pytest.mark.parametrize("lengths", [(0, 0), (0, 5), (5, 0), (1, 1), (100, 3), (3, 100_001)])
def test_the_checksum_of_two_strings_follows_from_those_of_each(lengths: tuple[int, int]) -> None:
    first, second = (random.Random(length).randbytes(length) for length in lengths)
    assert combine_crc(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 1001])
def test_the_checksum_of_a_repeated_string_follows_from_that_of_the_string(count: int) -> None:
    assert repeat_crc(b"\x00\x00\xc0\x7f", count) == zlib.crc32(b"\x00\x00\xc0\x7f" * count)
