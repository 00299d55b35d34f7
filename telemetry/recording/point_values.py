"""Turn the published values of a point into the numbers to record, and name those that cannot be recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from telemetry.errors import did_you_mean, error_text
from telemetry.metrics import UNDECLARED, Metric
from telemetry.recording.declarations import Declarations
from telemetry.recording.drop_reasons import DropReason
from telemetry.recording.numbers import as_float
from telemetry.records import MAX_NAME_LENGTH
from telemetry.redaction import redact_text

_CACHED_NAMES = 4096


class Dropped(NamedTuple):
    """A value that cannot be recorded: its name, the reason, and an explanation."""

    name: str
    reason: DropReason
    text: str


class PointValues(NamedTuple):
    """What the values of a point have become.

    Attributes:
        recorded: the values in display units, by metric name.
        dropped: those that cannot be recorded.
        appeared: the declarations of the metrics that have appeared for the first time, by full name.
        hints: what may be wrong with the names of some of these.
    """

    recorded: dict[str, float]
    dropped: list[Dropped]
    appeared: dict[str, Metric]
    hints: list[str]


class PointConverter:
    """Check and convert the values of each point; a value that cannot be recorded does not affect the others."""

    def __init__(self, declarations: Declarations | None = None) -> None:
        """Convert as declared; names that are not declared are added to the declarations when they appear."""
        self.declarations = declarations or Declarations({})
        self._resolve = lru_cache(_CACHED_NAMES)(self._find)

    def convert(self, stream: str, values: Mapping[str, object]) -> PointValues:
        """Convert the values of one stream, by metric name.

        Raises:
            TypeError: ``values`` is not a mapping.
        """
        if not isinstance(values, Mapping):
            msg = f"the values are of type {type(values).__name__}; expected a mapping of metric names to numbers"
            raise TypeError(msg)
        point = PointValues({}, [], {}, [])
        for given, value in values.items():
            resolved = self._resolve(stream, str(given))
            if isinstance(resolved, Dropped):
                point.dropped.append(resolved)
                continue
            name, full = resolved
            try:
                # Convert to float first: a NumPy float32 would round the product.
                number = as_float(value)
            except BaseException as error:  # noqa: BLE001 - conversions of foreign types are user code
                text = f"{name} has the type {type(value).__name__} and is not one number ({_one_line(error)})"
                point.dropped.append(Dropped(name, "not a number", text))
                continue
            if full in self.declarations or self._declare(stream, name, full, point):
                point.recorded[name] = number * self.declarations.factor(full)
        return point

    def _find(self, stream: str, name: str) -> tuple[str, str] | Dropped:
        """Return the name of a metric within its stream and its full name, or why it cannot be recorded."""
        if problem := name_problem(name):
            return Dropped(name, "invalid name", problem)
        full = f"{stream}/{name}"
        if full not in self.declarations and name.startswith(f"{stream}/") and name in self.declarations:
            # The full name instead of the name within the stream.
            return name.removeprefix(f"{stream}/"), name
        if len(full) > MAX_NAME_LENGTH:
            return Dropped(name, "invalid name", f"the full name {full[:20]!r}… has {len(full)} characters")
        return (name, full) if full in self.declarations else (redact_name(name), redact_name(full))

    def _declare(self, stream: str, name: str, full: str, point: PointValues) -> bool:
        """Declare a metric that has appeared; return False if there are too many."""
        found = self.declarations.find(full)
        if found is None:
            text = f"the run has too many metrics to add {full!r}"
            point.dropped.append(Dropped(name, "too many names", text))
            return False
        metric, factor = found
        self.declarations.add(full, metric, factor)
        point.appeared[full] = metric
        known = self.declarations.given(stream)
        if known and metric is UNDECLARED:
            point.hints.append(f"metric {full!r} is not declared, so its unit is unknown{did_you_mean(name, known)}")
        return True


@lru_cache(_CACHED_NAMES)
def redact_name(name: str) -> str:
    """Return the name of a stream or an undeclared metric without credentials."""
    return redact_text(name)[:MAX_NAME_LENGTH]


def name_problem(name: object) -> str:
    """Return why a stream or a metric cannot have this name; empty if it can."""
    if not isinstance(name, str):
        return f"the name {name!r} is of type {type(name).__name__}; names are strings"
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        return f"the name {name[:20]!r} has {len(name)} characters; names have 1 to {MAX_NAME_LENGTH}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"the name {name!r} is not valid Unicode"
    return ""


def names_by_reason(dropped: Iterable[Dropped]) -> dict[DropReason, list[Dropped]]:
    """Group values that cannot be recorded by reason."""
    groups: dict[DropReason, list[Dropped]] = {}
    for each in dropped:
        groups.setdefault(each.reason, []).append(each)
    return groups


def _one_line(error: BaseException) -> str:
    return error_text(error)[:200] or type(error).__name__
