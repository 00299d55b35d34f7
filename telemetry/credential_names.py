"""Recognize the names of credentials, and find the credentials in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache

MIN_KNOWN_LENGTH = 6
"""Length of the shortest credential that is removed from texts of all kinds; shorter values of environment variables
are mostly words, such as ``true`` and ``none``."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word of a name in snake_case, kebab-case or camelCase."""
_CREDENTIAL = re.compile(
    r"pass ?(word|wort|wd|phrase|code)s?\b|(secret|credential)s?\b|authorization\b"
    r"|(access|account|api|encryption|private|signing|ssh|subscription|wandb) ?keys?\b"
    r"|((access|api|auth|bearer|refresh) ?|^)tokens$|\b(bearer|cookies?|jwt|pwd)$"
    r"|(^|\b(admin|db|ftp|http|login|my ?sql|pg|proxy|redis|root|smtp|user) )pass$"
    # A token is a credential if it is what the name denotes, unlike token_id, and unlike the special tokens of a model.
    r"|(?<!\b(bos|eos|pad|unk|sep|cls|per|num|max|min) )(?<!\bmask )(?<!\bn )token$"
)
_CREDENTIAL_IN_URL = re.compile(r"^(auth|code|key|sas|session|sig)$|\bsignature$")
_LOGIN = re.compile(r"(^|\b(basic|http|proxy|registry) )auth$")
"""Names of a login, whose parts have names of their own if it is a mapping."""
# PWD is the working directory; these others name files and commands.
_OTHER_VARIABLE = re.compile(
    r"^(OLD)?PWD$|(?i:(^|_)(CMD|COMMAND|DIR|EXPIRY|FILE|FOLDER|HELPER|PATH|SOCK|TIMEOUT|URL)$)"
)


_ORDINARY = re.compile(r"[A-Za-z]{1,8}|\d{1,8}|(~|\.{1,2})?(/[\w.@-]{0,30}+)+")
"""What a variable such as AUTH or SECRETS may contain instead of a credential, and other texts as well."""


@lru_cache(4096)
def names_credential(name: str) -> bool:
    """Return whether a name, or a part of a dotted one, looks like the name of a credential."""
    parts = [_words(part) for part in name.split(".")]
    return any(map(_CREDENTIAL.search, parts)) or _LOGIN.search(parts[-1]) is not None


@lru_cache(1024)
def names_credential_in_url(name: str) -> bool:
    """Return whether a parameter of a URL looks like a credential; signatures give access, too."""
    return names_credential(name) or _CREDENTIAL_IN_URL.search(_words(name)) is not None


def environment_credentials() -> Iterator[str]:
    """Yield the values of the environment variables whose names are those of credentials."""
    for name, value in os.environ.items():
        if names_credential(name) and not _OTHER_VARIABLE.search(name) and is_distinctive(value):
            yield value


def is_distinctive(value: str) -> bool:
    """Return whether a credential can be removed wherever it appears: it is no word, number or path."""
    return len(value) >= MIN_KNOWN_LENGTH and not _ORDINARY.fullmatch(value)


def _words(name: str) -> str:
    return " ".join(_WORD.findall(name)).lower()
