"""Keep credentials out of the files of a run, of messages, and of what sinks receive.

Names decide about values with names, such as parameters and options. In free text, credentials are recognized by their
context or form, and by their value if it is known from the environment or the options of a sink.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any
from urllib.parse import quote, unquote

from telemetry.credential_forms import REDACTED, precedes_credential, redact_forms
from telemetry.credential_names import environment_credentials, is_distinctive, names_credential
from telemetry.printable import MAX_LINE_LENGTH, printable, shorten

__all__ = [
    "REDACTED",
    "credentials_in",
    "is_redacted",
    "names_credential",
    "redact",
    "redact_text",
    "remember_credentials",
    "safe_line",
]

_remembered: set[str] = set()
"""Credentials of the sinks of this process."""
_SHORTEST = 4
"""Length of the shortest credential that is removed from texts; shorter ones are parts of ordinary words."""


def redact(value: Any, name: str = "", credentials: Collection[str] = ()) -> Any:
    """Return a copy of nested dicts, lists and scalars in which values that look like credentials are ``***``.

    A value is redacted if its name, or the name of a mapping that contains it, looks like the name of a credential; so
    is the value after an option such as ``--password`` in a list. In all other texts, only the credentials are
    redacted, as by ``redact_text``. Values that JSON cannot represent (infinities, NaN, integers beyond 64 bits,
    objects) are replaced by their ``str``, and invalid Unicode by escape sequences.
    """
    return _redact(value, name, _known(credentials))


def is_redacted(value: Any) -> bool:
    """Return whether ``redact`` has removed a credential from a value."""
    if isinstance(value, Mapping):
        return any(map(is_redacted, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_redacted, value))
    return isinstance(value, str) and REDACTED in value


def credentials_in(value: Any, name: str = "") -> set[str]:
    """Return the credentials that ``redact`` removes from a value, and the passwords in URLs."""
    if isinstance(value, Mapping):
        return {found for k, v in value.items() for found in credentials_in(v, f"{name}.{k}")}
    if value is None or isinstance(value, bool):
        return set()
    if isinstance(value, list | tuple):
        named = (name if not precedes_credential(before) else REDACTED for before in [None, *value])
        return {found for v, each in zip(value, named, strict=False) for found in credentials_in(v, each)}
    if name == REDACTED or names_credential(name):
        return {_text(value)} - {""}
    found: set[str] = set()
    redact_forms(_text(value), found)
    # The part after the colon of a login is its password.
    return found | {each.partition(":")[2] for each in found} - {""}


def redact_text(text: str, credentials: Collection[str] = ()) -> str:
    """Return a text without the given credentials, those in the environment, and those that can be recognized."""
    return _without(text, _known(credentials))


def safe_line(text: str, length: int = MAX_LINE_LENGTH) -> str:
    """Return a text as one line for a terminal or log: without credentials and control characters, and shortened."""
    # Shorten last: the first part of a credential would not be recognized.
    return shorten(printable(redact_text(text)), length)


def remember_credentials(credentials: Collection[str]) -> None:
    """Remove these credentials from all texts that this process redacts from now on, except ordinary words."""
    _remembered.update(filter(is_distinctive, credentials))


def _redact(value: Any, name: str, known: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {_without(_text(k), known): _redact(v, f"{name}.{k}", known) for k, v in value.items()}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        pairs = zip([None, *value], value, strict=False)
        return [REDACTED if precedes_credential(before) else _redact(each, name, known) for before, each in pairs]
    return REDACTED if names_credential(name) else _scalar(value, known)


def _scalar(value: Any, known: Sequence[str]) -> int | float | str:
    # NumPy numbers are Integral or Real, and msgspec cannot encode them.
    if isinstance(value, Integral):
        number = int(value)
        return number if -(1 << 63) <= number < 1 << 64 else str(number)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return _without(_text(value), known)


def _without(text: str, known: Sequence[str]) -> str:
    for credential in known:
        text = text.replace(credential, REDACTED)
    return redact_forms(text)


def _known(credentials: Collection[str]) -> Sequence[str]:
    return _forms_of(frozenset((*credentials, *_remembered, *environment_credentials(), *_environment_passwords())))


def _environment_passwords() -> Iterator[str]:
    # Messages of a driver may quote a part of its URL.
    for value in os.environ.values():
        if "://" in value:
            yield from _passwords(value)


@lru_cache(256)
def _passwords(text: str) -> frozenset[str]:
    return frozenset(filter(is_distinctive, (each.partition(":")[2] for each in credentials_in(text))))


@lru_cache(8)
def _forms_of(credentials: frozenset[str]) -> list[str]:
    """Return the credentials as they may appear in texts, decoded or encoded for URLs, JSON or HTTP, longest first."""
    encodings = (str, quote, lambda text: quote(text, safe=""), unquote, lambda text: json.dumps(text)[1:-1])
    forms = {encode(each) for each in credentials if len(each) >= _SHORTEST for encode in encodings}
    forms.update(form for each in credentials if is_distinctive(each) for form in _in_base64(each))
    return sorted((each for each in forms if len(each) >= _SHORTEST), key=len, reverse=True)


def _in_base64(credential: str) -> Iterator[str]:
    """Yield what a credential contributes to the base64 of a longer text, such as a login in an HTTP header."""
    content = credential.encode(errors="replace")
    for before in range(3):
        # The characters at both ends also depend on the neighbors.
        end = -1 if (before + len(content)) % 3 else None
        encoded = base64.b64encode(bytes(before) + content).rstrip(b"=")
        yield encoded[(0, 2, 3)[before] : end].decode()


def _text(value: Any) -> str:
    # The name of a file may not be valid Unicode, and then JSON cannot represent it.
    try:
        return str(value).encode(errors="backslashreplace").decode()
    except Exception:  # noqa: BLE001 - an object of the user, whose conversion may fail
        return f"<{type(value).__name__}>"
