"""Select metrics by full name, by name within their stream, or by pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from telemetry.errors import MetricNotFound, did_you_mean

LISTED_NAMES = 12
"""Number of names listed in the error message for an unknown metric."""


def select_metrics(patterns: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the full names in ``known`` that match a pattern, in the same order; all of them if no pattern is given.

    A pattern is a full name or a name without its stream (``val/loss``, ``loss``). It may contain ``*``, ``?`` and
    ``[…]`` as in a shell (``val/*``); ``*`` also matches slashes.

    Raises:
        MetricNotFound: a pattern matches no metric; the message suggests a similar name or lists the known ones.
    """
    names = list(dict.fromkeys(known))
    if not patterns:
        return names
    found = {pattern: _matching(pattern, names) for pattern in patterns}
    for pattern, matching in found.items():
        if not matching:
            raise MetricNotFound(_message(pattern, names))
    selected = set().union(*found.values())
    return [name for name in names if name in selected]


def _matching(pattern: str, names: Iterable[str]) -> set[str]:
    spellings = {name: (name, _without_stream(name)) for name in names}
    # Exact matches first: a metric name may itself contain brackets.
    exact = {name for name, forms in spellings.items() if pattern in forms}
    return exact or {name for name, forms in spellings.items() if any(fnmatchcase(form, pattern) for form in forms)}


def _without_stream(name: str) -> str:
    return name.partition("/")[2]


def _message(pattern: str, names: Sequence[str]) -> str:
    if not names:
        return f"no metric {pattern!r}: the run declares no metrics"
    if hint := did_you_mean(pattern, [*names, *map(_without_stream, names)]):
        return f"no metric {pattern!r}{hint}"
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return f"no metric {pattern!r}; the run has {', '.join(names[:LISTED_NAMES])}{more}"
