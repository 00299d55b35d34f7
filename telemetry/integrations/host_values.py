"""Sort the values that other frameworks log into numbers and texts by stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from telemetry import is_number
from telemetry.errors import format_error
from telemetry.integrations.host_names import HostNames, flatten
from telemetry.integrations.pending_values import Number, as_number
from telemetry.recording.warn_once import WarnOnce


class HostValues:
    """Sort values by stream, and remember the last ones; the objects are those of the host, and may do anything.

    Attributes:
        names: the full names.
    """

    def __init__(self) -> None:
        self.names = HostNames()
        self._last: dict[str, tuple[object, object]] = {}
        self._warn_once = WarnOnce()

    def sort(self, values: Mapping[Any, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Return the numbers by name, for each stream, and the texts by full name."""
        streams: dict[str, dict[str, Any]] = {}
        texts: dict[str, str] = {}
        for host_name, value in flatten(values):
            stream, name = self.names.resolve(host_name)
            number = self._number(host_name, value)
            if number is not None:
                streams.setdefault(stream, {})[name] = number
            elif isinstance(value, str):
                texts[f"{stream}/{name}"] = value
        return streams, texts

    def without_repeated(self, stream: str, step: object, numbers: dict[str, Any]) -> dict[str, Any]:
        """Return the numbers without those repeated at the same step, such as the epoch in several calls."""
        new = {}
        for name, value in numbers.items():
            full = f"{stream}/{name}"
            # A step that is not an integer is left to the bus; an array could not be compared.
            is_plain = type(step) is int and type(value) in (int, float)
            if not is_plain or self._last.get(full) != (step, value):
                new[name] = value
            if is_plain:
                self._last[full] = (step, value)
        return new

    def _number(self, name: str, value: Any) -> Number | None:
        """Return a number; None for anything else, with a warning unless it is a text or None."""
        try:
            if is_number(value):
                return as_number(name, value)
            problem = ""
        except Exception as error:  # noqa: BLE001 - an object of the host
            problem = f" ({format_error(error)})"
        if problem or not isinstance(value, str | None):
            kind = type(value).__name__
            message = f"{name!r:.200} is of type {kind}, so it is not recorded as a number or a text{problem}"
            self._warn_once(kind, message)
        return None
