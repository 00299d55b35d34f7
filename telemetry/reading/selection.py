"""Metrics by full name, by name within their stream, or by pattern."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from telemetry.errors import MetricNotFound


def choose(patterns: Sequence[str], known: Iterable[str]) -> list[str]:
    """Give the full names among ``known`` that a pattern fits, in their order; all of them if there is no pattern.

    A pattern is a full name or what follows its stream (``val/loss``, ``loss``), with ``*``, ``?`` and ``[…]`` as in a
    shell (``val/*``); ``*`` takes slashes too.

    Raises:
        MetricNotFound: a pattern fits none; the message has the names that are close.
    """
    names = list(dict.fromkeys(known))
    if not patterns:
        return names
    found = {pattern: _fitting(pattern, names) for pattern in patterns}
    for pattern, fitting in found.items():
        if not fitting:
            raise MetricNotFound(_message(pattern, names))
    wanted = set().union(*found.values())
    return [name for name in names if name in wanted]


def _fitting(pattern: str, names: Iterable[str]) -> set[str]:
    spellings = {name: (name, name.partition("/")[2]) for name in names}
    # A name may have brackets of its own.
    exact = {name for name, spelt in spellings.items() if pattern in spelt}
    return exact or {name for name, spelt in spellings.items() if any(fnmatchcase(each, pattern) for each in spelt)}


def _message(pattern: str, names: Sequence[str]) -> str:
    if not names:
        return f"no metric {pattern!r}: the run declares none"
    spellings = dict.fromkeys([*names, *(name.partition("/")[2] for name in names)])
    near = difflib.get_close_matches(pattern, spellings, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(names[:12])}"
    more = f" and {len(names) - 12} more" if not near and len(names) > 12 else ""  # noqa: PLR2004 - as above
    return f"no metric {pattern!r}; {hint}{more}"
