"""The frames of event files."""

import random
from pathlib import Path

import pytest

from sinks.tensorboard.frames import checksums, read_frames, to_frames


def masked_crc32c(data: bytes) -> int:
    """Compute the checksum bit by bit (polynomial of RFC 3720, mask of TFRecord)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def messages(count: int, shortest: int, longest: int) -> list[bytes]:
    source = random.Random(1)
    return [source.randbytes(source.randint(shortest, longest)) for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "shortest", "longest"),
    [(0, 4, 4), (1, 0, 0), (3, 1, 60), (300, 20, 30), (300, 4, 9), (300, 0, 9), (9, 10_000, 40_000), (1, 16384, 16384)],
)
def test_checksums_are_those_of_tfrecords(count: int, shortest: int, longest: int) -> None:
    found = messages(count, shortest, longest)
    assert checksums(found) == [masked_crc32c(data) for data in found]


@pytest.mark.parametrize("count", [1, 200])
def test_the_check_value_is_that_of_crc32c(count: int) -> None:
    crc = 0xE3069283
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert checksums([b"123456789"] * count) == [masked] * count


@pytest.mark.parametrize("damaged", [0, 499, 500, 700])
def test_reading_stops_at_a_damaged_frame(tmp_path: Path, damaged: int) -> None:
    path, found = tmp_path / "file", messages(900, 20, 30)
    before, frame = to_frames(found[:damaged]), bytearray(to_frames(found[damaged : damaged + 1]))
    path.write_bytes(before + frame + to_frames(found[damaged + 1 :]))
    assert list(read_frames(path)) == found
    frame[15] ^= 1
    path.write_bytes(before + frame + to_frames(found[damaged + 1 :]))
    assert list(read_frames(path)) == found[:damaged]


def test_tensorboard_reads_the_frames(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    path, found = tmp_path / "file", messages(900, 20, 30)
    path.write_bytes(to_frames(found))
    assert list(RawEventFileLoader(str(path)).Load()) == found
