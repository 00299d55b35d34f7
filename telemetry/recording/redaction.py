"""Keep credentials out of the journal, and so out of every sink."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

REDACTED = "***"

_NAMES = re.compile(
    r"(?i)(api[-_]?key|access[-_]?key|private[-_]?key|token|passw(or)?d|passphrase|secret|credential|authorization)"
)
# What is between :// and @ names a user and mostly a password too, which may hold an @ of its own.
_URL_LOGIN = re.compile(r"(?<=://)[^/\s]+(?=@)")


def redact(value: Any, name: str = "") -> Any:
    """Give a copy of nested dicts, lists and scalars in which what looks like a credential is ``***``.

    A value counts as one when its name, or that of a mapping it is in, looks like that of a credential, or when it
    is a URL with a login in it. What JSON does not know becomes its ``str``: infinities and NaN, integers beyond 64
    bits, objects.
    """
    if isinstance(value, Mapping):
        return {str(k): redact(v, f"{name}.{k}") for k, v in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return [redact(v, name) for v in value]
    return REDACTED if _NAMES.search(name) else _scalar(value)


def _scalar(value: Any) -> int | float | str:
    # NumPy's numbers are Integral and Real, and nothing that msgspec would write.
    if isinstance(value, Integral):
        number = int(value)
        return number if -(1 << 63) <= number < 1 << 64 else str(number)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return _URL_LOGIN.sub(REDACTED, str(value))
