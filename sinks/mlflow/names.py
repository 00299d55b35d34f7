"""Conversion of names of metrics, parameters and tags to valid MLflow names, and MLflow's length limits."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterable

from telemetry.sink_api import SinkRejected

MAX_NAME_LENGTH = 250
"""Maximum number of characters in a name."""
MAX_PARAM_LENGTH, MAX_TAG_LENGTH = 6000, 8000
"""Maximum number of characters in the value of a parameter or tag."""
INFINITY_SUFFIX = ".inf"
"""Suffix of the metric that holds the signs of a metric's infinities."""

_INVALID_CHARACTER = re.compile(r"[^\w.\- :/]")
_VALID_CHARACTERS = "letters, digits and _ - . : / and space"


def valid_name(text: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Return the MLflow name of a metric, parameter or tag: the text itself if it is valid.

    Invalid characters become ``_``; a name that is too long is truncated and ends with its checksum.
    """
    parts = _INVALID_CHARACTER.sub("_", text).split("/")
    name = "/".join("_" * max(1, len(part)) if part in {"", ".", ".."} else part for part in parts)
    if name.startswith(".."):
        name = f"__{name[2:]}"
    if len(name) > max_length:
        name = f"{name[: max_length - 9].rstrip('/.')}_{zlib.crc32(text.encode()):08x}"
    return name


class MetricNames:
    """The MLflow names of a run's metrics, each reserving a second name for its infinities.

    Raises:
        SinkRejected: two metrics would get the same name, so that their points could not be distinguished.
    """

    def __init__(self, metrics: Iterable[str]) -> None:
        self._names: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        for metric in metrics:
            self.name_of(metric)

    def name_of(self, metric: str) -> str:
        """Return the MLflow name of a metric, adding the metric if it is new.

        Raises:
            SinkRejected: another metric already has this name.
        """
        name = self._names.get(metric)
        if name is None:
            name = self._names[metric] = self._reserve(metric)
        return name

    def add(self, metrics: Iterable[str]) -> None:
        """Add metrics, except for those whose name is taken; only their points are rejected."""
        for metric in metrics:
            with contextlib.suppress(SinkRejected):
                self.name_of(metric)

    def renamed(self) -> dict[str, str]:
        """Return the original names of the renamed metrics, keyed by MLflow name."""
        return {name: metric for metric, name in self._names.items() if name != metric}

    def _reserve(self, metric: str) -> str:
        name = valid_name(metric, MAX_NAME_LENGTH - len(INFINITY_SUFFIX))
        for reserved in (name, f"{name}{INFINITY_SUFFIX}"):
            owner = self._owners.get(reserved)
            if owner is not None:
                raise SinkRejected(_conflict_message(owner, metric, reserved))
        self._owners |= {name: metric, f"{name}{INFINITY_SUFFIX}": metric}
        return name


def _conflict_message(one: str, other: str, name: str) -> str:
    return (
        f"the metrics {one!r} and {other!r} would both be named {name!r} in MLflow (names consist of "
        f"{_VALID_CHARACTERS}, and those ending in {INFINITY_SUFFIX} are reserved for infinities); rename one of them"
    )
