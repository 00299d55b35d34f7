"""The names that MLflow takes, made from any others."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

from telemetry.sink_api import SinkRejected

LIMIT = 250
"""Characters that MLflow takes in a name."""
INFINITE = ".inf"
"""Ends the name under which the sign of a metric's infinities is written."""

_REFUSED = re.compile(r"[^\w.\- :/]")
_CHARACTERS = "letters, digits and _ - . : / and space"


def key(text: str, limit: int = LIMIT) -> str:
    """Give the name under which MLflow takes a metric, parameter or tag; the text itself where it does.

    What MLflow refuses becomes ``_``; a name that is too long is cut, and ended by its checksum.
    """
    parts = _REFUSED.sub("_", text).split("/")
    name = "/".join("_" * max(1, len(part)) if part in {"", ".", ".."} else part for part in parts)
    if name.startswith(".."):
        name = f"__{name[2:]}"
    if len(name) > limit:
        name = f"{name[: limit - 9].rstrip('/.')}_{zlib.crc32(text.encode()):08x}"
    return name


class Names:
    """The names of a run's metrics in MLflow, each with one more for its infinities.

    Raises:
        SinkRejected: two metrics would have one name, so that nobody could tell their points apart.
    """

    def __init__(self, metrics: Iterable[str]) -> None:
        self._names: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        for metric in metrics:
            self.name(metric)

    def name(self, metric: str) -> str:
        """Give the name of a metric; raises as the constructor does for one that has not been named before."""
        name = self._names.get(metric)
        if name is None:
            name = self._names[metric] = self._claim(metric)
        return name

    def changed(self) -> dict[str, str]:
        """Give the metrics that have another name in MLflow, by that name."""
        return {name: metric for metric, name in self._names.items() if name != metric}

    def _claim(self, metric: str) -> str:
        name = key(metric, LIMIT - len(INFINITE))
        for taken in (name, f"{name}{INFINITE}"):
            other = self._owners.get(taken)
            if other is not None:
                raise SinkRejected(_clash(other, metric, taken))
        self._owners |= {name: metric, f"{name}{INFINITE}": metric}
        return name


def _clash(one: str, other: str, name: str) -> str:
    why = f"a name there has {_CHARACTERS}, and one that ends in {INFINITE} is for the infinities of the one without"
    return f"the metrics {one!r} and {other!r} would both be {name!r} in MLflow ({why}); rename one of them"
