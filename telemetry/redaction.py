"""Keep credentials out of the files of a run, of messages, and of what sinks receive."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Any

REDACTED = "***"
_SHORTEST = 4
"""Length of the shortest credential that is removed from texts; shorter ones are parts of ordinary words."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word of a name in snake_case, kebab-case or camelCase."""
_CREDENTIAL = re.compile(
    r"pass ?(word|wd|phrase)s?\b|(secret|credential)s?\b|authorization\b|(api|access|private) ?keys?\b"
    r"|((access|api|auth|bearer|refresh) ?|^)tokens$"
    # A token is a credential if it is what the name denotes, unlike token_id, and unlike the special tokens of a model.
    r"|(?<!\b(bos|eos|pad|unk|sep|cls) )(?<!\bmask )token$"
)
# The login between :// and @ consists of a user name and, usually, a password, which may contain another @.
_URL_LOGIN = re.compile(r"(?<=://)[^/\s]+(?=@)")
_REDACTED_URL = re.compile(r"(?<=://)\*\*\*@|[?&][^=&\s]+=\*\*\*")
_URL_PARAMETER = re.compile(r"(?<=[?&])([^=&\s]+)=[^&\s#]+")


def redact(value: Any, name: str = "") -> Any:
    """Return a copy of nested dicts, lists and scalars in which values that look like credentials are ``***``.

    A value is redacted if its name, or the name of a mapping that contains it, looks like the name of a credential. In
    a URL, only the login and the parameters with such names are redacted. Values that JSON cannot represent
    (infinities, NaN, integers beyond 64 bits, objects) are replaced by their ``str``, and invalid Unicode by
    escape sequences.
    """
    if isinstance(value, Mapping):
        return {_text(k): redact(v, f"{name}.{k}") for k, v in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return [redact(v, name) for v in value]
    return REDACTED if names_credential(name) else _scalar(value)


def names_credential(name: str) -> bool:
    """Return whether a name, or a part of a dotted one, looks like the name of a credential."""
    return any(_CREDENTIAL.search(" ".join(_WORD.findall(part)).lower()) for part in name.split("."))


def is_redacted(value: Any) -> bool:
    """Return whether ``redact`` has removed a credential from a value."""
    if isinstance(value, Mapping):
        return any(map(is_redacted, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_redacted, value))
    return isinstance(value, str) and (value == REDACTED or _REDACTED_URL.search(value) is not None)


def credentials_in(value: Any, name: str = "") -> set[str]:
    """Return the credentials that ``redact`` removes from a value, and the passwords in URLs."""
    if isinstance(value, Mapping):
        return {found for k, v in value.items() for found in credentials_in(v, f"{name}.{k}")}
    if isinstance(value, list | tuple):
        return {found for v in value for found in credentials_in(v, name)}
    if value is None or isinstance(value, bool):
        return set()
    if names_credential(name):
        return {str(value)}
    logins = _URL_LOGIN.findall(str(value))
    parameters = [found[0].partition("=")[2] for found in _URL_PARAMETER.finditer(str(value)) if _is_secret(found)]
    return {*logins, *(login.partition(":")[2] for login in logins), *parameters} - {""}


def redact_text(text: str, credentials: Collection[str] = ()) -> str:
    """Return a text without the given credentials and those in its URLs."""
    for credential in sorted(credentials, key=len, reverse=True):
        if len(credential) >= _SHORTEST:
            text = text.replace(credential, REDACTED)
    return _redact_urls(text)


def _redact_urls(text: str) -> str:
    def redacted(found: re.Match[str]) -> str:
        return f"{found[1]}={REDACTED}" if _is_secret(found) else found[0]

    return _URL_PARAMETER.sub(redacted, _URL_LOGIN.sub(REDACTED, text)) if "://" in text else text


def _is_secret(parameter: re.Match[str]) -> bool:
    return names_credential(parameter[1])


def _scalar(value: Any) -> int | float | str:
    # NumPy numbers are Integral or Real, and msgspec cannot encode them.
    if isinstance(value, Integral):
        number = int(value)
        return number if -(1 << 63) <= number < 1 << 64 else str(number)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return _redact_urls(_text(value))


def _text(value: Any) -> str:
    # The name of a file may not be valid Unicode, and then JSON cannot represent it.
    try:
        return str(value).encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 - an object of the user, whose conversion may fail
        return f"<{type(value).__name__}>"
