"""Keep credentials out of the journal, and so out of every sink."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "***"

_NAMES = re.compile(
    r"(?i)(api[-_]?key|access[-_]?key|private[-_]?key|token|passw(or)?d|passphrase|secret|credential|authorization)"
)
# What is between :// and @ names a user and mostly a password too.
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def redact(value: Any, name: str = "") -> Any:
    """Give a copy of nested dicts, lists and scalars in which what looks like a credential is ``***``.

    A value counts as one when its name looks like that of a credential, or when it is a URL with a login in it.
    What JSON does not know becomes its ``str``.
    """
    if isinstance(value, Mapping):
        return {str(k): redact(v, str(k)) for k, v in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return [redact(v, name) for v in value]
    if _NAMES.search(name):
        return REDACTED
    if isinstance(value, int | float):
        return value
    return _URL_LOGIN.sub(REDACTED, str(value))
