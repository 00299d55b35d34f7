"""Find sinks by name, check their options and create instances.

Sinks are registered in the entry-point group ``telemetry.sinks``. Only selected sinks are imported. Each instance has
its own plugin manager, so that an exception in one sink does not affect the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from telemetry.errors import (
    PluginError,
    SettingError,
    SinkNotFound,
    SinkNotInstalled,
    TelemetryError,
    did_you_mean,
    error_text,
    format_error,
    raise_any,
)
from telemetry.plugins.credentials import with_credentials
from telemetry.plugins.hook_relay import Hooks, hooks_of
from telemetry.plugins.optional_imports import is_installed
from telemetry.records import MEDIA_KINDS, is_sink_name
from telemetry.redaction import credentials_in, redact, redact_text, remember_credentials

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "telemetry.sinks"
_INVALID_NAME = "its name must consist of up to 100 letters (a to z), digits and _ . -, and not begin with . or -"


@dataclasses.dataclass(frozen=True)
class Plugin:
    """The imported class of a sink.

    Attributes:
        name: name of the entry point.
        cls: the class.
        package: the distribution and its version.
    """

    name: str
    cls: type
    package: str

    @property
    def requires(self) -> tuple[str, ...]:
        """The modules without which the sink cannot be opened.

        Raises:
            PluginError: ``requires`` is not a tuple of module names.
        """
        modules = getattr(self.cls, "requires", ())
        # A string would be treated as a sequence of one-letter names.
        if not isinstance(modules, list | tuple) or not all(m and isinstance(m, str) for m in modules):
            msg = f"sink {self.name!r} of {self.package}: requires is {modules!r}; expected a tuple of module names"
            raise PluginError(msg)
        return tuple(modules)

    def missing(self) -> list[str]:
        """Return the required modules that are not installed, without importing any."""
        return [module for module in self.requires if not is_installed(module)]

    @property
    def media(self) -> tuple[str, ...]:
        """The kinds of media that the sink shows, of which later versions may know more.

        Raises:
            PluginError: ``media`` is not a tuple of names.
        """
        return _media_of(self.cls, f"sink {self.name!r} of {self.package}")

    def option_types(self) -> dict[str, dataclasses.Field[Any]]:
        """Return the options of the sink, keyed by name.

        Raises:
            PluginError: ``Options`` is not a dataclass.
        """
        options = getattr(self.cls, "Options", None)
        if options is None:
            return {}
        if not dataclasses.is_dataclass(options):
            msg = f"sink {self.name!r} of {self.package}: Options is {options!r}; expected a dataclass"
            raise PluginError(msg)
        return {f.name: f for f in dataclasses.fields(options)}


@dataclasses.dataclass(frozen=True)
class Sink:
    """A selected sink with its options; creates an instance for each delivery, and after each failure.

    Attributes:
        name: name of the sink, unique within the run.
        options: the configured options, keyed by name.
        plugin: the class of the sink; None for a sink passed as an object.
        instance: the object passed; None for a sink selected by name.
    """

    name: str
    options: Mapping[str, Any]
    plugin: Plugin | None
    instance: object | None = None

    @property
    def title(self) -> str:
        """The name with the package and its version, for error messages."""
        return self.name if self.plugin is None else f"{self.name} of {self.plugin.package}"

    @property
    def media(self) -> tuple[str, ...]:
        """The kinds of media that the sink shows; see ``Plugin.media``."""
        return _media_of(self.instance, f"sink {self.name!r}") if self.plugin is None else self.plugin.media

    def redact(self, text: str) -> str:
        """Return a text, such as an error message of the backend, without the credentials among the options."""
        return redact_text(text, credentials_in(self.options))

    def create(self) -> Hooks:
        """Construct an instance and return its hooks.

        Raises:
            PluginError: the sink cannot be constructed or does not match the hook specifications.
            SettingError: an option is unknown or invalid.
        """
        if self.plugin is None:
            return hooks_of(self.name, "an object", self.instance)
        remember_credentials(credentials_in(self.options))
        try:
            options = _options(self.plugin, self.options)
            instance = self.plugin.cls(*options)
        except (SettingError, PluginError) as error:
            raise type(error)(self.redact(error_text(error))) from error
        except BaseException as error:
            # A third-party constructor may raise anything.
            if isinstance(error, KeyboardInterrupt):
                raise
            msg = f"sink {self.name!r} of {self.plugin.package} cannot be constructed: {format_error(error)}"
            raise PluginError(self.redact(msg)) from error
        return hooks_of(self.name, self.plugin.package, instance)


def installed() -> dict[str, list[EntryPoint]]:
    """Return the entry points of all installed sinks, keyed by name, without importing any."""
    # Imported here because it is slow: it imports the email package.
    from importlib.metadata import entry_points

    out: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        known = out.setdefault(point.name, [])
        # A distribution is found twice if two folders on the path lead to it.
        if all((p.value, _package(p)) != (point.value, _package(point)) for p in known):
            known.append(point)
    return out


def load(name: str) -> Plugin:
    """Import the class of the sink with this name.

    Raises:
        SinkNotFound: no package provides it, or several do.
        PluginError: it cannot be imported or is not a class.
    """
    known = installed()
    points = known.get(name, [])
    if not points:
        msg = f"no sink {name!r}; installed: {', '.join(known) or 'none'}{did_you_mean(name, known)}"
        raise SinkNotFound(msg)
    if len(points) > 1:
        packages = " and ".join(_package(p) for p in points)
        msg = f"sink {name!r} is provided by {packages}: uninstall all but one"
        raise SinkNotFound(msg)
    package = _package(points[0])
    if not is_sink_name(name):
        msg = f"sink {name!r} of {package}: {_INVALID_NAME}"
        raise PluginError(msg)
    try:
        cls = points[0].load()
    except BaseException as error:
        # A third-party module may raise anything.
        if isinstance(error, KeyboardInterrupt):
            raise
        msg = f"sink {name!r} of {package} cannot be imported ({points[0].value}): {format_error(error)}"
        raise PluginError(msg) from error
    if not isinstance(cls, type):
        msg = f"sink {name!r} of {package}: {points[0].value} is not a class but {cls!r}"
        raise PluginError(msg)
    return Plugin(name, cls, package)


def select(sinks: Iterable[str | object], options: Mapping[str, Mapping[str, Any]]) -> list[Sink]:
    """Return the named sinks (or sink objects) after checking their options, hooks and requirements.

    Args:
        sinks: names of installed sinks, or objects that implement the hooks.
        options: the options of each sink, by the name of the sink; missing credentials come from the environment.

    Raises:
        SinkNotFound: a name is unknown or ambiguous.
        SinkNotInstalled: a required module is missing.
        PluginError: a sink cannot be imported or constructed, or does not match the hook specifications.
        SettingError: an option is unknown or invalid, or a sink is listed twice.

    All problems are looked for; see ``raise_any``.
    """
    chosen: dict[str, Sink] = {}
    errors: list[TelemetryError] = []
    for sink in sinks:
        try:
            new = _select(sink, options)
            if new.name in chosen:
                msg = f"sink {new.name!r} is listed twice"
                raise SettingError(msg)
            chosen[new.name] = new
        except TelemetryError as error:
            errors.append(error)
    raise_any(errors)
    return list(chosen.values())


def _select(sink: str | object, options: Mapping[str, Mapping[str, Any]]) -> Sink:
    if isinstance(sink, str):
        plugin = load(sink)
        new = Sink(sink, with_credentials(sink, plugin.option_types(), options.get(sink, {})), plugin)
        if missing := plugin.missing():
            raise SinkNotInstalled(_missing_message(plugin, missing))
    else:
        name = getattr(sink, "name", type(sink).__name__)
        if not isinstance(name, str) or not is_sink_name(name):
            msg = f"sink {name!r}: {_INVALID_NAME}"
            raise PluginError(msg)
        new = Sink(name, {}, None, sink)
    # Fail now, not at the first record hours later.
    new.create()
    new.media  # noqa: B018 - checks it
    return new


def type_name(field: dataclasses.Field[Any]) -> str:
    """Return the type of an option in Python notation."""
    if isinstance(field.type, str):
        return field.type
    return field.type.__name__ if type(field.type) is type else str(field.type).replace("typing.", "")


def install_command(plugin: Plugin) -> str:
    """Return the command that installs the required modules, through the extra named after the sink if there is one."""
    distribution, _, _ = plugin.package.partition(" ")
    dist = installed()[plugin.name][0].dist
    extras = dist.metadata.get_all("Provides-Extra") if dist is not None else None
    if plugin.name in (extras or ()):
        return f"pip install '{distribution}[{plugin.name}]'"
    return f"pip install {' '.join(dict.fromkeys(module.partition('.')[0] for module in plugin.missing()))}"


def _missing_message(plugin: Plugin, missing: list[str]) -> str:
    modules = ", ".join(repr(m) for m in missing)
    sink = f"sink {plugin.name!r} of {plugin.package}"
    return f"{sink} needs the module {modules}, which is not installed: {install_command(plugin)}"


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.module


def _media_of(sink: object, title: str) -> tuple[str, ...]:
    kinds = getattr(sink, "media", ())
    if not isinstance(kinds, list | tuple) or not all(isinstance(kind, str) for kind in kinds):
        msg = f"{title}: media is {kinds!r}; expected a tuple of kinds: {', '.join(MEDIA_KINDS)}"
        raise PluginError(msg)
    return tuple(kinds)


def _options(plugin: Plugin, given: Mapping[str, Any]) -> tuple[Any, ...]:
    known = plugin.option_types()
    for name in given:
        if name not in known:
            available = ", ".join(known) or "none"
            hint = did_you_mean(name, known)
            msg = f"sink {plugin.name!r} of {plugin.package} has no option {name!r}; available: {available}{hint}"
            raise SettingError(msg)
    cls = getattr(plugin.cls, "Options", None)
    if cls is None:
        return ()
    try:
        return (msgspec.convert(dict(given), cls),)
    except msgspec.ValidationError as error:
        text = str(error).replace("`$.", f"`telemetry.{plugin.name}.")
        msg = f"invalid option of sink {plugin.name!r} of {plugin.package}: {text}"
        name = str(error).partition(" - at `$.")[2].partition("[")[0].rstrip("`")
        if name in given:
            msg += f"; got {redact(given[name], name)!r}, expected {type_name(known[name])}"
        raise SettingError(msg) from error
