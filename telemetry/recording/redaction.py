"""Keep credentials out of the journal, and thereby out of every sink."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

REDACTED = "***"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word of a name in snake_case, kebab-case or camelCase."""
_CREDENTIAL = re.compile(
    r"pass ?(word|wd|phrase)s?\b|(secret|credential)s?\b|authorization\b|(api|access|private) ?keys?\b"
    r"|(access|api|auth|bearer|refresh) ?tokens\b"
    # A token is a credential if it is what the name denotes, unlike token_id, and unlike the special tokens of a model.
    r"|(?<!\b(bos|eos|pad|unk|sep|cls) )(?<!\bmask )token$"
)
# The login between :// and @ consists of a user name and, usually, a password, which may contain another @.
_URL_LOGIN = re.compile(r"(?<=://)[^/\s]+(?=@)")
_URL_PARAMETER = re.compile(r"(?<=[?&])([^=&\s]+)=[^&\s#]+")


def redact(value: Any, name: str = "") -> Any:
    """Return a copy of nested dicts, lists and scalars in which values that look like credentials are ``***``.

    A value is redacted if its name, or the name of a mapping that contains it, looks like the name of a credential. In
    a URL, only the login and the parameters with such names are redacted. Values that JSON cannot represent
    (infinities, NaN, integers beyond 64 bits, objects) are replaced by their ``str``.
    """
    if isinstance(value, Mapping):
        return {str(k): redact(v, f"{name}.{k}") for k, v in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return [redact(v, name) for v in value]
    return REDACTED if _names_credential(name) else _scalar(value)


def _names_credential(name: str) -> bool:
    return any(_CREDENTIAL.search(" ".join(_WORD.findall(part)).lower()) for part in name.split("."))


def _redact_url(text: str) -> str:
    def redacted(found: re.Match[str]) -> str:
        return f"{found[1]}={REDACTED}" if _names_credential(found[1]) else found[0]

    return _URL_PARAMETER.sub(redacted, _URL_LOGIN.sub(REDACTED, text)) if "://" in text else text


def _scalar(value: Any) -> int | float | str:
    # NumPy numbers are Integral or Real, and msgspec cannot encode them.
    if isinstance(value, Integral):
        number = int(value)
        return number if -(1 << 63) <= number < 1 << 64 else str(number)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return _redact_url(str(value))
