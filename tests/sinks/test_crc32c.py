"""The checksum of event files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from sinks._crc32c import crc32c, masked_crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_it_is_the_checksum_of_the_standard(data, expected):
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 1023, 1024, 1025, 1026, 1027, 1028, 2047, 2048, 5000])
def test_every_byte_counts_however_long_the_data_is(length):
    data = bytes((7 * i) % 251 for i in range(length))
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


@given(st.binary(max_size=3000))
def test_it_agrees_with_tensorboard(data):
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)
