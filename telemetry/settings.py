"""The ``telemetry`` section of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec

from telemetry.alerts.settings import AlertSettings
from telemetry.cadence import Cadence
from telemetry.errors import SettingError, closest_match
from telemetry.plugins.registry import installed

# The upper bound is what timers take.
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
DeliveryMode = Literal["process", "thread"]
OnDivergence = Literal["warn", "stop"]
CHOICES = {"delivery": DeliveryMode, "on_divergence": OnDivergence}
NONE = "none"
"""The name that stands for no sink at all."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a run is watched. Times are in seconds.

    Attributes:
        sinks: names of sinks; none of them: only the journal is written.
        every: iterations between two points of the periodic streams.
        dir: the folder that run folders are made in.
        delivery: one process for each sink, or threads of the training process (for notebooks).
        poll: how often delivery looks for new records.
        hook_timeout: after this time in one hook a delivery process is ended and started again.
        drain_timeout: how long the end of training waits for the sinks.
        linger: how long delivery goes on trying after the trainer's death.
        on_divergence: what a trainer does when its run has diverged: warn, and go on; or stop.
        watch: when an alert is due.
        options: each sink's own options, by its name.
    """

    sinks: tuple[str, ...] = ("tensorboard",)
    every: int = 200
    dir: str = "runs"
    delivery: DeliveryMode = "process"
    poll: Seconds = 5.0
    hook_timeout: Seconds = 120.0
    drain_timeout: Seconds = 30.0
    linger: Seconds = 600.0
    on_divergence: OnDivergence = "warn"
    watch: AlertSettings = AlertSettings()
    options: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        Cadence(self.every)

    @classmethod
    def parse(cls, section: Mapping[str, Any]) -> Settings:
        """Read a configuration section: settings by name, and a mapping of options for each sink by the sink's name.

        ``sinks`` may be a list or a text of names with commas between them; ``none`` means no sink.

        Raises:
            SettingError: a name is unknown, or a value of the wrong type or out of range.
        """
        if not isinstance(section, Mapping):
            msg = f"telemetry is {section!r}; it holds settings by name, as in telemetry.every"
            raise SettingError(msg)
        fields = [f for f in cls.__struct_fields__ if f != "options"]
        sinks = installed()
        given: dict[str, Any] = {"options": {}}
        for key, value in section.items():
            if key in fields:
                given[key] = value
            elif key not in sinks:
                match = closest_match(key, [*fields, *sinks])
                hint = f"did you mean telemetry.{match}?" if match else f"known are {', '.join([*fields, *sinks])}"
                msg = f"there is no telemetry.{key}; {hint}"
                raise SettingError(msg)
            elif value is not None and not _names_options(value):
                msg = f"telemetry.{key} holds the options of the sink {key!r} by name; it cannot be {value!r}"
                raise SettingError(msg)
            else:
                given["options"][key] = dict(value or {})
        if "sinks" in given:
            given["sinks"] = parse_sinks(given["sinks"])
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            raise SettingError(_explain(str(error), given)) from error


def _names_options(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _explain(error: str, given: Mapping[str, Any]) -> str:
    what, at, where = error.partition(" - at `$.")
    key = where.rstrip("`")
    if not at or key not in given:
        return error.replace("`$.", "`telemetry.")
    if key in CHOICES:
        what = f"it is one of {', '.join(get_args(CHOICES[key]))}"
    return f"telemetry.{key} is {given[key]!r}; {what[0].lower()}{what[1:]}"


def parse_sinks(value: object) -> tuple[str, ...]:
    """Read names of sinks from a list, or from a text with commas between them; ``none`` means no sink.

    Raises:
        SettingError: it is neither, or names nothing, or names none beside others.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        msg = f"telemetry.sinks is {value!r}; give names of sinks, as in 'wandb,tensorboard', or 'none'"
        raise SettingError(msg)
    wanted = tuple(name.strip() for name in names if name.strip())
    if wanted == (NONE,) or not names:
        return ()
    if not wanted or NONE in wanted:
        msg = f"telemetry.sinks is {value!r}; 'none' stands alone, and without any name leave the setting out"
        raise SettingError(msg)
    return wanted
