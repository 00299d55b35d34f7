"""Encode the values that ranks send to each other. Decoding a value from anybody executes nothing.

The ports of torch's process groups have no authentication: whoever can connect to them can take the place of a rank.
Its functions for Python objects decode whatever comes with `pickle`, which calls any function that it names.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from telemetry.errors import format_error

__all__ = ["MODULES", "decode", "encode"]

MODULES = frozenset(
    {
        "aimnet2mult.config.schema",
        "aimnet2mult.config.sections",
        "aimnet2mult.data.file_content",
        "aimnet2mult.data.report",
        "aimnet2mult.train.plan",
        "telemetry.alerts.settings",
        "telemetry.metrics",
        "telemetry.settings",
    }
)
"""Modules whose classes messages may contain: plain records, the creation of which has no effects."""
_OTHERS = {("msgspec._utils", "rebuild"), ("pathlib", "PosixPath")}
_PROTOCOL = 4


def encode(value: object) -> bytes:
    """Return a value as bytes; arrays must contain numbers."""
    stream = io.BytesIO()
    _Encoder(stream, _PROTOCOL).dump(value)
    return stream.getvalue()


def decode(content: bytes) -> object:
    """Return the value of `encode`.

    Raises:
        ValueError: the bytes are damaged, or contain anything but plain values and records of `MODULES`.
    """
    try:
        return _Decoder(io.BytesIO(content)).load()
    except Exception as error:
        raise ValueError(format_error(error)) from error


class _Encoder(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        # As bytes, because NumPy's own functions can be called with arguments that corrupt the memory.
        return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else None


class _Decoder(pickle.Unpickler):
    def persistent_load(self, saved: Any) -> object:
        dtype, shape, content = saved
        if np.dtype(dtype).kind not in "biuf":
            raise pickle.UnpicklingError(f"unexpected array of type {dtype!r}")
        return np.frombuffer(content, dtype).reshape(shape).copy()

    def find_class(self, module: str, name: str) -> object:
        if module in MODULES or (module, name) in _OTHERS:
            found: object = super().find_class(module, name)
            # The modules also contain what they import.
            if (module, name) in _OTHERS or (isinstance(found, type) and found.__module__ == module):
                return found
        raise pickle.UnpicklingError(f"unexpected {module}.{name}")
