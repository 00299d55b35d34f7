"""Keep credentials out of the journal, and thereby out of every sink."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

REDACTED = "***"

_CREDENTIAL_NAMES = re.compile(
    r"(?i)(api[-_]?key|access[-_]?key|private[-_]?key|token|passw(or)?d|passphrase|secret|credential|authorization)"
)
# The login between :// and @ consists of a user name and, usually, a password, which may contain another @.
_URL_LOGIN = re.compile(r"(?<=://)[^/\s]+(?=@)")


def redact(value: Any, name: str = "") -> Any:
    """Return a copy of nested dicts, lists and scalars in which values that look like credentials are ``***``.

    A value is redacted if its name, or the name of a mapping that contains it, looks like the name of a credential. In
    a URL, only the login is redacted. Values that JSON cannot represent (infinities, NaN, integers beyond 64 bits,
    objects) are replaced by their ``str``.
    """
    if isinstance(value, Mapping):
        return {str(k): redact(v, f"{name}.{k}") for k, v in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return [redact(v, name) for v in value]
    return REDACTED if _CREDENTIAL_NAMES.search(name) else _scalar(value)


def _scalar(value: Any) -> int | float | str:
    # NumPy numbers are Integral or Real, and msgspec cannot encode them.
    if isinstance(value, Integral):
        number = int(value)
        return number if -(1 << 63) <= number < 1 << 64 else str(number)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return _URL_LOGIN.sub(REDACTED, str(value))
