"""Find credentials in text by their context or their form.

No library does this: those that search source code for secrets (detect-secrets) report places instead of removing
values, need quotes around values, and take SMILES strings for keys. Every pattern takes time proportional to the length
of the text: repeated parts are bounded, possessive, or start only where a word does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from telemetry.credential_names import names_credential, names_credential_in_url

REDACTED = "***"

# Words and short numbers, as in "pass=2 of 3", "use_token=true".
_NO_SECRET = re.compile(r"(?i)|none|null|true|false|\d{1,3}|\d*\.\d+")
# In the output of "env", PWD is the working directory.
_FOLDERS = {"pwd", "oldpwd"}
_FOLDER = re.compile(r"/\S*+")
# The login between :// and @ is a user name and, usually, a password, which may contain @ and, against the standard,
# even / ? and #. The host and port of a server on the web are no login if another @ follows.
_URL_LOGIN = re.compile(
    r"(?<=://)(?P<bare>(?<!http://)(?<!https://)[^/?#\s:@]*+:(?:(?!://)\S)*"
    r"|[^/?#\s:@]*+:(?!\d{1,5}[/?#])(?:(?!://)\S)*"
    # The name of an SSH user is no secret.
    r"|(?<!ssh://)(?<!sftp://)[^/?#\s]+)(?=@)"
)
_ENCODED_LOGIN = re.compile(r"(?i)(?<=%3A%2F%2F)(?P<bare>[^\s&%]{0,200}+%3A(?:(?!%40)[^\s&]){0,200}+)(?=%40)")
_PRIVATE_KEY = re.compile(
    r"(?s)-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?P<bare>.*?)(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
)
_AUTHORIZATION = r"(?i)(?<![\w-])(?:proxy-)?authorization\\?[\"']?\s{0,3}[:=]\s{0,3}\\?[\"']?(?!(?:proxy-)?auth)"
_KEY = re.compile(_AUTHORIZATION + r"(?:(?:api-?key|basic|bearer|negotiate|ntlm|token)\s{1,3})?(?P<bare>[^\s\"'\\]+)")
_SIGNATURE = re.compile(_AUTHORIZATION + r"(?:aws4-hmac-sha256|digest|hawk|oauth|signature)\s(?P<bare>[^\r\n]*)")
_COOKIE = re.compile(
    r"(?i)(?<![\w-])(?:set-)?cookie\\?[\"']?\s{0,3}:\s{0,3}\\?[\"']?"
    r"(?!(?:set-)?cookie)(?P<bare>[^\s;\"'\\]++(?:;\s{0,3}[^\s=;,\"'\\]++(?:=[^\s;\"'\\]*+)?)*+)"
)
_BEARER = re.compile(r"(?i)\bbearer[ \t]{1,3}(?P<bare>(?=\S*\d)[\w.~+/-]{8,}+=*)")
_NETRC = re.compile(r"(?i)\blogin\s{1,3}\S++\s{1,3}password\s{1,3}(?P<bare>\S+)")
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?P<bare>gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{20,}"
    r"|sk-(?=[\w-]{0,40}\d)[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{35}|wandb_v\d_\w{20,}|local-[0-9a-f]{40}"
    r"|dapi[0-9a-f]{32}|npm_[A-Za-z0-9]{30,}|pypi-AgE[\w-]{20,}|dckr_pat_[\w-]{20,}|nvapi-[\w-]{40,}"
    r"|gsk_[A-Za-z0-9]{40,}|ya29\.[\w-]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{20,}|SG\.[\w-]{20,}\.[\w-]{20,}"
    r"|(?:AKIA|ASIA)(?=[A-Z]*\d)[A-Z0-9]{16}(?![A-Za-z0-9])|eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*)"
)
_UNNAMED = (_PRIVATE_KEY, _URL_LOGIN, _ENCODED_LOGIN, _SIGNATURE, _KEY, _COOKIE, _BEARER, _NETRC, _TOKEN)


class _Named(NamedTuple):
    """Values after their names: patterns of the name with a separator and of the value, and whether it is secret."""

    name: re.Pattern[str]
    value: re.Pattern[str]
    is_credential: Callable[[str], bool]


_MESSAGES = {"auth", "token", "tokens"}
_QUOTED = r"\"(?P<double>(?:[^\"\\]|\\.)*+)|'(?P<single>(?:[^'\\]|\\.)*+)"
# Quotation marks in HTML.
_ESCAPED_QUOTE = r"&(?:quot|apos|#0?39|#34|#x27|#x22);"
_LIKELY = r"(?P<likely>(?=[^\s\"',;]*[A-Za-z])(?=[^\s\"',;]*\d)[^\s\"',;]{8,})"
_NAMED = (
    _Named(
        re.compile(r"(?:[?&](?:amp;)?|%3[Ff]|%26)(?P<name>[^=&\s?#%]++)(?:=|%3[Dd])"),
        re.compile(r"(?P<bare>[^&\s#\"']+)"),
        names_credential_in_url,
    ),
    _Named(
        re.compile(
            rf"(?:[\"']|{_ESCAPED_QUOTE})(?P<name>[\w. -]{{1,64}}+)\\?(?:[\"']|{_ESCAPED_QUOTE})\s{{0,3}}:\s{{0,3}}"
        ),
        re.compile(
            rf"\\+[\"'](?P<escaped>[^\"'\\]*)|{_QUOTED}|{_ESCAPED_QUOTE}(?P<html>[^\s&]*)|(?P<bare>[^\s,}}\]\"']+)"
        ),
        names_credential,
    ),
    _Named(
        # In a part of a URL, "=" may be encoded.
        re.compile(
            r"(?:(?<![\w.-])(?!(?<=%)[0-9A-Fa-f]{2})|(?<=%[0-9A-Fa-f]{2}))"
            r"(?P<name>[\w.-]++)[\"']?\]?[ \t]{0,2}(?:=[=>]?|%3[Dd])[ \t]{0,2}"
        ),
        # The value may be a tuple or a call, as in auth=("me", "…").
        re.compile(
            rf"{_QUOTED}|(?P<call>[\w.]{{0,64}}+\([^()\n]{{0,500}}+\))|(?:{_ESCAPED_QUOTE})?(?P<bare>[^\s&;\"']+)"
        ),
        names_credential,
    ),
    _Named(
        re.compile(r"(?<![\w.-])(?P<name>(?:(?i:api|access|secret) )?[\w.-]++)[ \t]{0,2}:[ \t]{1,3}"),
        re.compile(rf"(?m){_QUOTED}|(?P<bare>[^\s\"',;]+)(?=[ \t]{{0,3}}(?:$|[,;)}}\]\r\"']))|{_LIKELY}"),
        # "unexpected token: }" and "auth: failed" are no fields but messages.
        lambda name: name.lower() not in _MESSAGES and names_credential(name),
    ),
    _Named(
        re.compile(r"(?i)(?<![\w.-])(?P<name>auth|tokens?)[ \t]{0,2}:[ \t]{1,3}"),
        re.compile(r"(?P<bare>(?=[\w.~+/-]*\d)[\w.~+/-]{20,}+=*)"),
        lambda _: True,
    ),
    _Named(re.compile(r"<(?P<name>[\w.-]++)>"), re.compile(r"(?P<bare>[^<\s]++)(?=</)"), names_credential),
    _Named(
        re.compile(r"(?<![\w-])--(?P<name>[\w-]++)[\"']?,?\s{1,3}[\"']?"),
        re.compile(r"(?P<bare>[^\s\"'-][^\s\"']*)"),
        names_credential,
    ),
)
_OPTION = re.compile(r"--?[\w-]+")


def redact_forms(text: str, found: set[str] | None = None) -> str:
    """Return a text without the credentials that can be recognized in it; add these to ``found``."""
    secrets = set() if found is None else found
    for pattern in _UNNAMED:
        text = _without(text, pattern.finditer(text), secrets)
    for form in _NAMED:
        text = _without(text, _values(text, form), secrets)
    return text


def precedes_credential(argument: object) -> bool:
    """Return whether the next argument of a command line is a credential, as after ``--password``."""
    return isinstance(argument, str) and _OPTION.fullmatch(argument) is not None and names_credential(argument)


def _values(text: str, form: _Named) -> Iterator[re.Match[str]]:
    end = 0
    for match in form.name.finditer(text):
        # A name inside a value is part of it.
        if match.end() > end and form.is_credential(match["name"]) and (value := form.value.match(text, match.end())):
            end = value.end()
            if not (match["name"].lower() in _FOLDERS and _FOLDER.fullmatch(value[0])):
                yield value


def _without(text: str, matches: Iterator[re.Match[str]], found: set[str]) -> str:
    parts, end = [], 0
    for match in matches:
        group = match.lastgroup or ""
        # The end of an unquoted value is uncertain.
        secret = match[group].rstrip("),]}") if group in {"bare", "likely"} else match[group]
        start = match.start(group)
        if start < end or _NO_SECRET.fullmatch(secret) or secret.startswith(REDACTED):
            continue
        found.add(secret)
        parts += [text[end:start], REDACTED]
        end = start + len(secret)
    return "".join([*parts, text[end:]])
