"""Encode images as PNG (ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

from telemetry.recording.media_content import Encoded, as_array, drawn, title
from telemetry.records import Image

if TYPE_CHECKING:
    import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II")
_HEADER_END = 33
"""Size of the signature and of the chunk IHDR, which follows it."""
_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
"""Gray, RGB and RGBA, by the number of channels."""


def encode_image(caption: str, content: Any) -> Encoded:
    """Encode an image: the bytes of a PNG file, an array or a matplotlib figure.

    Raises:
        ValueError: it is not an image.
    """
    if hasattr(content, "savefig"):
        content = drawn(content)
    png = bytes(content) if isinstance(content, bytes | bytearray | memoryview) else _png(_pixels(as_array(content)))
    width, height = _size(png)
    return Encoded(Image, {"width": width, "height": height, "caption": title(caption)}, png, ".png")


def _size(png: bytes) -> tuple[int, int]:
    """Return the width and the height of an image in pixels."""
    if len(png) < _HEADER_END or not png.startswith(_SIGNATURE) or png[12:16] != b"IHDR":
        msg = "the bytes are not a PNG file; pass an array or a matplotlib figure, or convert the image"
        raise ValueError(msg)
    width, height = _HEADER.unpack_from(png, 16)
    return width, height


def _pixels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array of shape (height, width, channels) of 8-bit integers."""
    import numpy as np

    pixels = array[..., np.newaxis] if array.ndim == 2 else array  # noqa: PLR2004 - gray
    if pixels.ndim != 3 or pixels.shape[2] not in _COLOR_TYPES or not pixels.size:  # noqa: PLR2004 - with channels
        msg = f"the array has shape {array.shape}; expected (height, width), (height, width, 3) or (height, width, 4)"
        raise ValueError(msg)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "fb":
        msg = f"the array has the type {pixels.dtype}; expected uint8, or floating-point numbers from 0 to 1"
        raise ValueError(msg)
    rounded: np.ndarray[Any, Any] = np.rint(255 * np.clip(np.nan_to_num(pixels.astype(np.float32)), 0, 1))
    return rounded.astype(np.uint8)


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    import numpy as np

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    # Each line begins with the number of its filter: none.
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    data = zlib.compress(lines.tobytes())
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
