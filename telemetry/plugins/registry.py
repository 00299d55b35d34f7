"""From a sink's name to an instance in a plugin manager of its own.

Sinks are found by the entry-point group ``telemetry.sinks``. Only what was named is imported. Each instance gets its
own manager, so that a sink that raises costs its neighbours nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pluggy

from telemetry.errors import PluginError, SettingError, SinkNotFound, SinkNotInstalled, did_you_mean, format_error
from telemetry.plugins.hookspecs import PROJECT, Opened, SinkHooks
from telemetry.records import Record, RunRecord, Status

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "telemetry.sinks"
HOOKS = ("sink_open", "sink_write", "sink_close")


class Hooks(Protocol):
    """The hooks of one sink, as a pluggy hook relay offers them."""

    def sink_open(self, *, run: RunRecord, folder: Any) -> Opened: ...
    def sink_write(self, *, records: Sequence[Record]) -> int | None: ...
    def sink_close(self, *, status: Status, time: int, reason: str) -> None: ...


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A sink's class, loaded, and where it comes from."""

    name: str
    cls: type
    package: str

    @property
    def requires(self) -> tuple[str, ...]:
        """The modules that must be importable before the sink can be opened."""
        modules = getattr(self.cls, "requires", ())
        # A text is a sequence of names too, each of one letter.
        if not isinstance(modules, list | tuple) or not all(m and isinstance(m, str) for m in modules):
            msg = f"sink {self.name!r} of {self.package}: requires is {modules!r}; it is a tuple of names of modules"
            raise PluginError(msg)
        return tuple(modules)

    def missing(self) -> list[str]:
        """Give the required modules that are not installed, without importing any."""
        return [module for module in self.requires if not _is_installed(module)]

    def option_types(self) -> dict[str, dataclasses.Field[Any]]:
        """Give the sink's options by name."""
        options = getattr(self.cls, "Options", None)
        if options is None:
            return {}
        if not dataclasses.is_dataclass(options):
            msg = f"sink {self.name!r} of {self.package}: Options is {options!r}; it is a dataclass"
            raise PluginError(msg)
        return {f.name: f for f in dataclasses.fields(options)}


@dataclasses.dataclass(frozen=True)
class Sink:
    """A sink that has been chosen, with its options: makes as many instances as delivery needs."""

    name: str
    options: Mapping[str, Any]
    plugin: Plugin | None
    instance: object | None = None

    @property
    def title(self) -> str:
        """The name, with the package and version that it comes from: for messages about what goes wrong in it."""
        return self.name if self.plugin is None else f"{self.name} of {self.plugin.package}"

    def create(self) -> Hooks:
        """Construct the sink and give its hooks.

        Raises:
            PluginError: it cannot be constructed, or does not fit the hook specifications.
        """
        if self.plugin is None:
            return _hooks(self.name, "an object", self.instance)
        try:
            options = _options(self.plugin, self.options)
            instance = self.plugin.cls(*options)
        except (SettingError, PluginError):
            raise
        except (Exception, SystemExit) as error:
            # A stranger's constructor may raise anything.
            msg = f"sink {self.name!r} of {self.plugin.package} cannot be constructed: {format_error(error)}"
            raise PluginError(msg) from error
        return _hooks(self.name, self.plugin.package, instance)


def installed() -> dict[str, list[EntryPoint]]:
    """Give the entry points of all installed sinks by name, without importing any."""
    # It reads e-mail headers, and brings a good part of the standard library for that.
    from importlib.metadata import entry_points

    out: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        known = out.setdefault(point.name, [])
        # One distribution may be found twice, when two folders of the path lead to it.
        if all((p.value, _package(p)) != (point.value, _package(point)) for p in known):
            known.append(point)
    return out


def load(name: str) -> Plugin:
    """Import the class that the entry point of that name leads to.

    Raises:
        SinkNotFound: no package offers it, or several do.
        PluginError: it cannot be imported, or is no class.
    """
    known = installed()
    points = known.get(name, [])
    if not points:
        msg = f"no sink {name!r}; installed: {', '.join(known) or 'none'}{did_you_mean(name, known)}"
        raise SinkNotFound(msg)
    if len(points) > 1:
        packages = " and ".join(_package(p) for p in points)
        msg = f"sink {name!r} is offered by {packages}: uninstall all but one"
        raise SinkNotFound(msg)
    package = _package(points[0])
    try:
        cls = points[0].load()
    except (Exception, SystemExit) as error:
        # Importing a stranger's module may raise anything.
        msg = f"sink {name!r} of {package} cannot be imported ({points[0].value}): {format_error(error)}"
        raise PluginError(msg) from error
    if not isinstance(cls, type):
        msg = f"sink {name!r} of {package}: {points[0].value} is no class but {cls!r}"
        raise PluginError(msg)
    return Plugin(name, cls, package)


def select(sinks: Iterable[str | object], options: Mapping[str, Mapping[str, Any]]) -> list[Sink]:
    """Turn names (or ready-made objects) into sinks whose options, hooks and requirements have been checked.

    Raises:
        SinkNotFound, SinkNotInstalled, PluginError, SettingError: as their names say.
    """
    chosen: list[Sink] = []
    for sink in sinks:
        if isinstance(sink, str):
            plugin = load(sink)
            new = Sink(sink, dict(options.get(sink, {})), plugin)
        else:
            new = Sink(getattr(sink, "name", type(sink).__name__), {}, None, sink)
        if any(new.name == other.name for other in chosen):
            msg = f"sink {new.name!r} is named twice"
            raise SettingError(msg)
        if new.plugin is not None and (missing := new.plugin.missing()):
            raise SinkNotInstalled(_missing_message(new.plugin, missing))
        # Misuse shows here, not hours later at the first record.
        new.create()
        chosen.append(new)
    return chosen


def type_name(field: dataclasses.Field[Any]) -> str:
    """Give the type of an option as it is written in Python."""
    if isinstance(field.type, str):
        return field.type
    return field.type.__name__ if type(field.type) is type else str(field.type).replace("typing.", "")


def install_command(plugin: Plugin) -> str:
    """Give the command that installs what a sink needs."""
    distribution, _, _ = plugin.package.partition(" ")
    extras = installed()[plugin.name][0].dist
    offered = extras.metadata.get_all("Provides-Extra") if extras is not None else None
    if plugin.name in (offered or ()):
        return f"pip install '{distribution}[{plugin.name}]'"
    return f"pip install {' '.join(dict.fromkeys(module.partition('.')[0] for module in plugin.missing()))}"


def _missing_message(plugin: Plugin, missing: list[str]) -> str:
    modules = ", ".join(repr(m) for m in missing)
    sink = f"sink {plugin.name!r} of {plugin.package}"
    return f"{sink} needs the module {modules}, which is not installed: {install_command(plugin)}"


def _is_installed(module: str) -> bool:
    """Say whether a module can be found. Of a dotted name, ``importlib.util.find_spec`` would import the parents."""
    top, *parts = module.split(".")
    spec = find_spec(top)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return False
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec is not None


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.module


def _options(plugin: Plugin, given: Mapping[str, Any]) -> tuple[Any, ...]:
    known = plugin.option_types()
    for name in given:
        if name not in known:
            have = ", ".join(known) or "none"
            hint = did_you_mean(name, known)
            msg = f"sink {plugin.name!r} of {plugin.package} has no option {name!r}; it has: {have}{hint}"
            raise SettingError(msg)
    cls = getattr(plugin.cls, "Options", None)
    if cls is None:
        return ()
    try:
        return (msgspec.convert(dict(given), cls),)
    except msgspec.ValidationError as error:
        text = str(error).replace("`$.", f"`telemetry.{plugin.name}.")
        msg = f"an option of the sink {plugin.name!r} of {plugin.package} is wrong: {text}"
        name = str(error).partition(" - at `$.")[2].partition("[")[0].rstrip("`")
        if name in given:
            msg += f"; it is {given[name]!r} and takes {type_name(known[name])}"
        raise SettingError(msg) from error


def _hooks(name: str, package: str, instance: object) -> Hooks:
    if isinstance(instance, type):
        msg = f"sink {name!r} of {package} is a class; give an instance of it, or its name"
        raise PluginError(msg)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(SinkHooks)
    try:
        manager.register(instance, name)
        manager.check_pending()
    except (pluggy.PluginValidationError, TypeError, ValueError) as error:
        msg = f"sink {name!r} of {package} does not fit the hook specifications: {format_error(error)}"
        raise PluginError(msg) from error
    missing = [hook for hook in HOOKS if not getattr(manager.hook, hook).get_hookimpls()]
    if missing:
        msg = f"sink {name!r} of {package} implements no {', '.join(missing)} (is @hookimpl there?)"
        raise PluginError(msg)
    hooks: Any = manager.hook
    return hooks  # type: ignore[no-any-return]  # a relay's hooks are looked up by name
