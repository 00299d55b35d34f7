"""CRC-32 of concatenated data from the CRC-32 of each part, as ``crc32_combine`` of zlib."""

import zlib
from functools import cache

__all__ = ["combine_crc", "repeat_crc"]

POLYNOMIAL = 0xEDB88320
"""The polynomial of CRC-32, without its leading term; the highest bit is the coefficient of x⁰."""
ONE = 1 << 31


def combine_crc(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two byte strings, one after the other.

    The CRC of the first is multiplied by x to the power of the number of bits in the second. Source: ``crc32_combine``
    in https://github.com/madler/zlib/blob/v1.3.1/crc32.c.

    Args:
        first: CRC-32 of the first.
        second: CRC-32 of the second.
        length: Length of the second in bytes.
    """
    return _multiply(_power(8 * length), first) ^ second


def repeat_crc(unit: bytes, count: int) -> int:
    """Return the CRC-32 of ``unit * count`` in a time that hardly depends on ``count``."""
    crc, power, length = 0, zlib.crc32(unit), len(unit)
    while count:
        if count & 1:
            crc = combine_crc(crc, power, length)
        power, length, count = combine_crc(power, power, length), 2 * length, count >> 1
    return crc


def _multiply(a: int, b: int) -> int:
    """Return the product of two polynomials over GF(2), modulo the polynomial of CRC-32."""
    product, bit = 0, ONE
    while bit:
        if a & bit:
            product ^= b
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
        bit >>= 1
    return product


@cache
def _power(exponent: int) -> int:
    """Return x to a power, modulo the polynomial of CRC-32."""
    power, square = ONE, ONE >> 1
    while exponent:
        if exponent & 1:
            power = _multiply(power, square)
        square, exponent = _multiply(square, square), exponent >> 1
    return power
