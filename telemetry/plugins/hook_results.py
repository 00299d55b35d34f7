"""Checks of the values that hooks return: a sink is code of a third party, and its mistakes must not go further."""

from __future__ import annotations

import reprlib

import msgspec

from telemetry.errors import PluginError, error_text
from telemetry.plugins.hookspecs import Opened
from telemetry.records import MAX_STEP


def check_opened(result: object, hook: str = "sink_open") -> Opened:
    """Return a copy of the result of ``sink_open``.

    Args:
        result: the value that the hook returned.
        hook: name of the hook for messages, with that of its sink.

    Raises:
        PluginError: it is not an ``Opened``, or its values have other types, are out of range, or cannot be encoded.
    """
    if not isinstance(result, Opened):
        msg = f"{hook} returned {reprlib.repr(result)}; it must return telemetry.sink_api.Opened"
        raise PluginError(msg)
    try:
        checked = msgspec.convert(msgspec.structs.asdict(result), Opened)
        msgspec.json.encode(checked)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        msg = f"{hook} returned an invalid Opened: {error_text(error)}"
        raise PluginError(msg) from error
    return checked


def check_durable(result: object, hook: str = "sink_write") -> int | None:
    """Return the result of ``sink_write``; arguments as for ``check_opened``.

    Raises:
        PluginError: it is neither a sequence number nor None.
    """
    if result is None or (type(result) is int and 0 <= result < MAX_STEP):
        return result
    msg = f"{hook} returned {reprlib.repr(result)}; it must return the highest durable sequence number, or None"
    raise PluginError(msg)
