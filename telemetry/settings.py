"""The ``telemetry`` section of a configuration."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from telemetry.alerts.settings import AlertSettings
from telemetry.cadence import EVENTS, Cadence
from telemetry.errors import SettingError, closest_match, did_you_mean
from telemetry.expectations import expected_value
from telemetry.plugins.registry import installed
from telemetry.run_folder.permissions import Mode

# All timers accept the upper bound.
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
DeliveryMode = Literal["process", "thread"]
OnDivergence = Literal["warn", "stop"]
_UNKNOWN_FIELD = re.compile("Object contains unknown field `(.*)`")
NONE = "none"
"""The sink name that means no sinks."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of telemetry; times are in seconds.

    Attributes:
        sinks: names of the sinks; without any, only the journal is written.
        every: interval between points of the periodic streams, in iterations.
        events: streams that are recorded whenever they are published; ``*`` for all.
        dir: the folder in which run folders are created.
        mode: who may read a new run besides its owner: nobody (private) or its group (group). The permissions of the
            run folder hold from then on.
        delivery: one process per sink, or threads of the training process (for notebooks).
        poll: interval, in seconds, at which a delivery checks for new records.
        hook_timeout: seconds after which a delivery process that is stuck in a hook is restarted; in addition,
            the same time for each 100 MB of images, files and the like that the call delivers.
        drain_timeout: seconds that the end of training waits for the sinks.
        linger: seconds that delivery keeps retrying a failing sink after the trainer has ended.
        blobs_mb: maximum size of all images, tables, texts and artifacts of a run, in 10⁶ bytes; what exceeds it is not
            recorded.
        on_divergence: what a trainer does when its run has diverged: warn and continue, or stop.
        watch: thresholds for raising an alert.
        options: the options of each sink, by the name of the sink.
    """

    sinks: tuple[str, ...] = ("tensorboard",)
    every: Annotated[int, msgspec.Meta(ge=1)] = 200
    events: tuple[str, ...] = EVENTS
    dir: str = "runs"
    mode: Mode = "private"
    delivery: DeliveryMode = "process"
    poll: Seconds = 5.0
    hook_timeout: Seconds = 120.0
    drain_timeout: Seconds = 30.0
    linger: Seconds = 600.0
    blobs_mb: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 1024
    on_divergence: OnDivergence = "warn"
    watch: AlertSettings = AlertSettings()
    options: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        Cadence(self.every)

    @classmethod
    def parse(cls, section: Mapping[str, Any]) -> Settings:
        """Parse a configuration section: settings by name and, under the name of each sink, a mapping of its options.

        ``sinks`` may be a list of names or a comma-separated string; ``none`` means no sinks.

        Raises:
            SettingError: a name is unknown, or a value has the wrong type or is out of range; the message has a line
                for each problem.
        """
        if not isinstance(section, Mapping):
            msg = f"telemetry is {section!r}; it must be a mapping of settings, such as telemetry.every"
            raise SettingError(msg)
        fields = [f for f in cls.__struct_fields__ if f != "options"]
        sinks = installed()
        given: dict[str, Any] = {"options": {}}
        problems: list[str] = []
        for key, value in section.items():
            if key in fields:
                # A copy, since invalid values are removed below.
                given[key] = dict(value) if isinstance(value, Mapping) else value
            elif key not in sinks:
                match = closest_match(key, [*fields, *sinks])
                hint = f"did you mean telemetry.{match}?" if match else f"known keys: {', '.join([*fields, *sinks])}"
                problems.append(f"unknown key telemetry.{key}; {hint}")
            elif value is not None and not _names_options(value):
                problems.append(f"telemetry.{key} is {value!r}; it must be a mapping of options of the sink {key!r}")
            else:
                given["options"][key] = dict(value or {})
        if "sinks" in given:
            try:
                given["sinks"] = parse_sinks(given["sinks"])
            except SettingError as error:
                problems.append(str(error))
                del given["sinks"]
        settings = _convert(given, problems)
        if problems:
            raise SettingError("\n".join(problems))
        return settings


def _names_options(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _convert(given: dict[str, Any], problems: list[str]) -> Settings:
    """Return the settings; those with invalid values are removed from ``given``, and described in ``problems``."""
    while True:
        try:
            return msgspec.convert(given, Settings)
        except msgspec.ValidationError as error:
            # It names only the first problem.
            what, at, where = str(error).partition(" - at `$.")
            keys = where.rstrip("`").split(".")
            if not at or keys[0] not in given:
                raise SettingError(str(error)) from error
            if unknown := _UNKNOWN_FIELD.match(what):
                keys.append(unknown[1])
            problems.append(_explain(keys, given, is_unknown=unknown is not None))
            *above, last = keys
            del functools.reduce(operator.getitem, above, given)[last]


def _explain(keys: list[str], given: Mapping[str, Any], *, is_unknown: bool) -> str:
    """Return what is wrong with a setting in plain words, with its name, its value and what is expected."""
    name = f"telemetry.{'.'.join(keys)}"
    if is_unknown:
        return f"unknown key {name}{did_you_mean(keys[-1], AlertSettings.__struct_fields__)}"
    value: Any = functools.reduce(operator.getitem, keys, given)
    return f"{name} is {value!r}; expected {expected_value(Settings, keys)}"


def parse_sinks(value: object) -> tuple[str, ...]:
    """Parse a list of sink names or a comma-separated string; ``none`` means no sinks.

    Raises:
        SettingError: the value is neither, contains no name, or combines ``none`` with other names.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        msg = f"telemetry.sinks is {value!r}; it must list sink names, such as 'wandb,tensorboard', or be 'none'"
        raise SettingError(msg)
    wanted = tuple(name.strip() for name in names if name.strip())
    if wanted == (NONE,) or not names:
        return ()
    if not wanted or NONE in wanted:
        msg = f"telemetry.sinks is {value!r}; 'none' excludes other names; omit the setting to use the default"
        raise SettingError(msg)
    return wanted
