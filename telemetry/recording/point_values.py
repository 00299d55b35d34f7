"""Turn the published values of a point into the numbers to record, and name those that cannot be recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from telemetry.errors import did_you_mean, error_text
from telemetry.recording.drop_reasons import DropReason
from telemetry.records import MAX_NAME_LENGTH
from telemetry.redaction import redact_text

_CACHED_NAMES = 4096


class Dropped(NamedTuple):
    """A value that cannot be recorded: its name, the reason, and an explanation."""

    name: str
    reason: DropReason
    text: str


class PointValues(NamedTuple):
    """The values of a point in display units, by metric name, and those that cannot be recorded."""

    recorded: dict[str, float]
    dropped: list[Dropped]


class PointConverter:
    """Check and convert the values of each point; a value that cannot be recorded does not affect the others."""

    def __init__(self, factors: Mapping[str, float] | None = None) -> None:
        """Convert by ``factors``, by full name of the declared metrics; None accepts any name, without conversion."""
        self._factors = factors
        self._resolve = lru_cache(_CACHED_NAMES)(self._find)

    def convert(self, stream: str, values: Mapping[str, object]) -> PointValues:
        """Convert the values of one stream, by metric name.

        Raises:
            TypeError: ``values`` is not a mapping.
        """
        if not isinstance(values, Mapping):
            msg = f"the values are of type {type(values).__name__}; expected a mapping of metric names to numbers"
            raise TypeError(msg)
        point = PointValues({}, [])
        for given, value in values.items():
            resolved = self._resolve(stream, str(given))
            if isinstance(resolved, Dropped):
                point.dropped.append(resolved)
                continue
            name, factor = resolved
            try:
                # Convert to float first: a NumPy float32 would round the product.
                point.recorded[name] = _number(value) * factor
            except BaseException as error:  # noqa: BLE001 - conversions of foreign types are user code
                text = f"{name} has the type {type(value).__name__} and is not one number ({_one_line(error)})"
                point.dropped.append(Dropped(name, "not a number", text))
        return point

    def _find(self, stream: str, name: str) -> tuple[str, float] | Dropped:
        """Return the name of a metric within its stream and its factor, or why it cannot be recorded."""
        if problem := name_problem(name):
            return Dropped(name, "invalid name", problem)
        if self._factors is None:
            return redact_name(name), 1.0
        full = f"{stream}/{name}"
        if full in self._factors:
            return name, self._factors[full]
        if name.startswith(f"{stream}/") and name in self._factors:
            # The full name instead of the name within the stream.
            return name.removeprefix(f"{stream}/"), self._factors[name]
        known = [each.removeprefix(f"{stream}/") for each in self._factors if each.startswith(f"{stream}/")]
        text = f"metric {full!r} is not declared; declare it in open_run(metrics={{{full!r}: Metric(unit=…)}})"
        return Dropped(name, "undeclared metric", text + did_you_mean(name, known))


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


def _number(value: object) -> float:
    # item() accepts arrays and tensors with one element only, and float() rejects the complex number it may return.
    return float(value.item() if hasattr(value, "item") else value)  # type: ignore[arg-type]


def _one_line(error: BaseException) -> str:
    return error_text(error)[:200] or type(error).__name__
