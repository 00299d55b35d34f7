"""Destinations that only a run folder names, to which nothing is sent before the user has confirmed them.

The options in a run folder may come from somebody else. Combined with the credentials of the user, an option such as
the URL of a server would send these to a server chosen by somebody else, and a folder could be any folder of the user.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from telemetry.errors import PluginError, TelemetryError
from telemetry.plugins.credentials import variable
from telemetry.plugins.registry import Plugin, Sink, select

IsHarmless = Callable[[Any, Path], bool]
"""Whether a run folder may choose a value of an option without the user's confirmation."""


def is_inside(path: str, folder: Path) -> bool:
    """Return whether a path, relative to a run folder or absolute, stays inside that folder."""
    return (folder / Path(path).expanduser()).resolve().is_relative_to(folder.resolve())


def unconfirmed(sink: Sink, stored: Mapping[str, Any], given: Collection[str], folder: Path) -> list[str]:
    """Return an assignment ``SINK.OPTION=VALUE``, quoted for the shell, for each destination to be confirmed.

    Args:
        sink: the sink, with its final options.
        stored: the options in the run folder.
        given: the names of options that the user has given now.
        folder: the run folder.

    Raises:
        PluginError: the declaration ``destinations`` of the sink is invalid.
    """
    if sink.plugin is None:
        return []
    # Others have been replaced by a credential from the environment.
    from_folder = {name: value for name, value in stored.items() if name not in given and sink.options[name] == value}
    checks = _destinations(sink.plugin)
    if checks is None:
        # Any option of the sink may decide where its credentials are sent.
        gets_credentials = bool(sink.options.keys() - from_folder.keys() - set(given))
        checks = dict.fromkeys(from_folder, _is_never_harmless) if gets_credentials else {}
    return [
        _assignment(sink.name, name, from_folder[name])
        for name in checks
        if name in from_folder and not _is_trusted(sink.plugin, name, from_folder[name], checks[name], folder)
    ]


def confirmations(name: str, stored: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the assignments that ``telemetry sync`` needs for a sink with the options in a run folder.

    The list is empty if that cannot be determined, for example because the sink is not installed.
    """
    try:
        (sink,) = select([name], {name: stored})
        return unconfirmed(sink, stored, (), folder)
    except TelemetryError:
        return []


def _destinations(plugin: Plugin) -> Mapping[str, IsHarmless] | None:
    """Return the declared destinations of a sink; None without a declaration."""
    declared = getattr(plugin.cls, "destinations", None)
    options = plugin.option_types()
    if declared is None or (
        isinstance(declared, Mapping) and all(name in options and callable(check) for name, check in declared.items())
    ):
        return declared
    msg = (
        f"sink {plugin.name!r} of {plugin.package}: destinations is {declared!r}; expected a mapping of the names of "
        "options to functions"
    )
    raise PluginError(msg)


def _is_trusted(plugin: Plugin, name: str, value: Any, is_harmless: IsHarmless, folder: Path) -> bool:
    if value in (plugin.option_types()[name].default, os.environ.get(variable(plugin.name, name))):
        return True
    try:
        return is_harmless(value, folder)
    except Exception:  # noqa: BLE001 - a function of a third party
        return False


def _is_never_harmless(value: Any, folder: Path) -> bool:  # noqa: ARG001 - the signature of IsHarmless
    return False


def _assignment(sink: str, option: str, value: Any) -> str:
    return shlex.quote(f"{sink}.{option}={_text(value)}")


def _text(value: Any) -> str:
    """Return the text that the option ``-o`` parses as this value."""
    if isinstance(value, str):
        try:
            msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return msgspec.json.encode(value).decode()
