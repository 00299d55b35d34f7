"""The hooks of one instance of a sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pluggy

from telemetry.errors import PluginError, format_error
from telemetry.plugins.hookspecs import PROJECT, Opened, SinkHooks
from telemetry.records import Record, RunRecord, Status

HOOKS = ("sink_open", "sink_write", "sink_close")


class Hooks(Protocol):
    """The hooks of one instance, as called through a pluggy hook relay; see ``SinkHooks``."""

    def sink_open(self, *, run: RunRecord, folder: Any) -> Opened:
        """Call the hook ``sink_open``."""

    def sink_write(self, *, records: Sequence[Record]) -> int | None:
        """Call the hook ``sink_write``."""

    def sink_close(self, *, status: Status, time: int, reason: str) -> None:
        """Call the hook ``sink_close``."""


def hooks_of(name: str, package: str, instance: object) -> Hooks:
    """Return the hooks of an instance, through a plugin manager of its own.

    Raises:
        PluginError: it is a class, or does not match the hook specifications.
    """
    if isinstance(instance, type):
        msg = f"sink {name!r} of {package} is a class; pass an instance or the name of the sink"
        raise PluginError(msg)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(SinkHooks)
    try:
        manager.register(instance, name)
        manager.check_pending()
    except Exception as error:
        # An attribute of a third-party class may raise anything.
        msg = f"sink {name!r} of {package} does not match the hook specifications: {format_error(error)}"
        raise PluginError(msg) from error
    missing = [hook for hook in HOOKS if not getattr(manager.hook, hook).get_hookimpls()]
    if missing:
        msg = f"sink {name!r} of {package} does not implement {', '.join(missing)} (is @hookimpl missing?)"
        raise PluginError(msg)
    hooks: Any = manager.hook
    return hooks  # type: ignore[no-any-return]  # the hooks of a relay are looked up by name
