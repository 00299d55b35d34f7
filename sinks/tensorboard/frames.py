"""The frames of an event file: a sequence of TFRecords.

A frame consists of the length of the data with its checksum, and the data with its checksum. TensorBoard's reader is
not used, because it reopens the file for each part of a frame, which takes minutes on a network file system; nor is its
writer, because more than half of its time goes into checksums, byte by byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from telemetry.sink_api import private_opener

_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
_HEADER_SIZE = _LENGTH.size + _CHECKSUM.size
_MASK_DELTA = 0xA282EAD8
_FRAMES_PER_CHECK = 500
_MIN_PARALLEL = 100
"""Number of messages of one length from which computing all checksums at once is faster."""
_MIN_PARALLEL_BYTES = 4
_MIN_LONG_BYTES, _ROW_BYTES = 16384, 256
"""Length of messages, such as images, that are faster if they are divided, and the length of the parts."""


def read_frames(path: Path) -> Iterator[bytes]:
    """Yield the data of each frame, up to the first incomplete or damaged one, where all readers stop.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb", opener=private_opener) as file:
        frames = _unverified_frames(file)
        while some := list(islice(frames, _FRAMES_PER_CHECK)):
            for (data, stored), checksum in zip(some, checksums([data for data, _ in some]), strict=True):
                if stored != _CHECKSUM.pack(checksum):
                    return
                yield data


def to_frames(messages: Sequence[bytes]) -> bytes:
    """Return the frames of serialized events."""
    return b"".join(
        _header(len(data)) + data + _CHECKSUM.pack(checksum)
        for data, checksum in zip(messages, checksums(messages), strict=True)
    )


def checksums(messages: Sequence[bytes]) -> list[int]:
    """Return the masked CRC-32C of each message, as TFRecords contain it."""
    lengths = [len(data) for data in messages]
    if lengths and max(lengths) >= _MIN_LONG_BYTES:
        short = iter(checksums([data for data in messages if len(data) < _MIN_LONG_BYTES]))
        return [_long_checksum(data) if len(data) >= _MIN_LONG_BYTES else next(short) for data in messages]
    if lengths and min(lengths) >= _MIN_PARALLEL_BYTES and sum(lengths) >= _MIN_PARALLEL * max(lengths):
        return _parallel_checksums(messages)
    return [_masked_crc32c(data) for data in messages]


def _unverified_frames(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the data of each complete frame with its checksum."""
    remaining = os.fstat(file.fileno()).st_size
    while len(header := file.read(_HEADER_SIZE)) == _HEADER_SIZE:
        (length,) = _LENGTH.unpack_from(header)
        remaining -= _HEADER_SIZE + length + _CHECKSUM.size
        if remaining < 0 or header != _header(length):
            return
        yield file.read(length), file.read(_CHECKSUM.size)


@lru_cache
def _header(length: int) -> bytes:
    data = _LENGTH.pack(length)
    return data + _CHECKSUM.pack(_masked_crc32c(data))


def _masked_crc32c(data: bytes) -> int:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    checksum: int = masked_crc32c(data)
    return checksum


def _parallel_checksums(messages: Sequence[bytes]) -> list[int]:
    """Compute the checksums of all messages at the same time, from table lookups for one byte of each."""
    import numpy as np
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE

    table = np.array(CRC_TABLE, np.uint32)
    sizes = np.array([len(data) for data in messages])
    width = int(sizes.max())
    # Zeros at the beginning leave a checksum of zero unchanged, and inverting the first four bytes of the data has the
    # same effect as beginning with all bits set.
    joined = b"".join(data.rjust(width, b"\0") for data in messages)
    padded = np.frombuffer(joined, np.uint8).reshape(len(messages), width).copy()
    padded[np.arange(len(messages))[:, None], (width - sizes)[:, None] + np.arange(4)] ^= 0xFF
    return _masked(_remainders(padded, table))


def _long_checksum(data: bytes) -> int:
    """Compute the checksum of one message from those of its parts, which are joined in pairs."""
    import numpy as np
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE

    table = np.array(CRC_TABLE, np.uint32)
    rows = 1 << (-(-len(data) // _ROW_BYTES) - 1).bit_length()
    padded = np.frombuffer(data.rjust(rows * _ROW_BYTES, b"\0"), np.uint8).copy()
    padded[padded.size - len(data) :][:4] ^= 0xFF
    crc = _remainders(padded.reshape(rows, _ROW_BYTES), table)
    bits = np.arange(32, dtype=np.uint32)
    # What the bits of a checksum become if a part of zeros follows; checksums are linear.
    shifted = _remainders(np.zeros((32, _ROW_BYTES), np.uint8), table, start=np.uint32(1) << bits)

    def follow(checksums: Any) -> Any:
        return np.bitwise_xor.reduce((checksums[:, None] >> bits & 1) * shifted, axis=1)

    while len(crc) > 1:
        crc, shifted = follow(crc[::2]) ^ crc[1::2], follow(shifted)
    return _masked(crc)[0]


def _remainders(rows: Any, table: Any, start: Any = 0) -> Any:
    """Return the state of the checksum of each row, without the inversions at the beginning and at the end."""
    import numpy as np

    crc = np.zeros(len(rows), np.uint32) | start
    for column in np.ascontiguousarray(rows.T):
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
    return crc


def _masked(states: Any) -> list[int]:
    import numpy as np

    crc = ~states
    masked: list[int] = ((crc >> 15 | crc << 17) + np.uint32(_MASK_DELTA)).tolist()
    return masked
