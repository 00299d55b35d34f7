"""Checks of the class itself: its options, and what importing it costs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from telemetry.errors import PluginError, SettingError
from telemetry.plugins.registry import Plugin, Sink
from telemetry.testing.child import Child, Report
from telemetry.testing.kit import EXPECTED_ERRORS, Driver, Kit
from telemetry.testing.points import run_record


class PluginChecks(Kit):
    """What a sink owes to those who only look at it."""

    def test_options_are_refused_by_name(self, tmp_path: Path) -> None:
        sink = type(self.make_sink(tmp_path / "run"))
        plugin = Plugin(sink.__name__, sink, "the package under test")
        for name in (*plugin.option_types(), "no_such_option"):
            refusal = _refusal(plugin, name)
            assert refusal, f"the option {name!r} takes a value of any type; annotate it in Options"
            assert name in refusal or "missing required field" in refusal, (
                f"a value of the wrong type for the option {name!r} is refused without its name: {refusal}"
            )

    def test_the_sdk_is_imported_only_when_the_sink_is_opened(self, tmp_path: Path) -> None:
        sink = type(self.make_sink(tmp_path / "run"))
        file = getattr(sys.modules[sink.__module__], "__file__", None)
        with Child(
            _Looker, "look", sink.__module__, file, sink.__qualname__, str(tmp_path), timeout=self.timeout
        ) as it:
            loaded = set(it.read()) - set(self.light_imports)
            assert not loaded, (
                f"importing or constructing {sink.__name__} imports {', '.join(sorted(loaded))}; import it in the "
                "function that needs it, so that listing sinks stays quick (or name it in light_imports)"
            )
            refusal = it.read()
            assert not refusal, refusal


class _Strange:
    """A value of no option's type."""


class _Looker:
    """Imports a sink's module in a process where nothing else is."""

    def look(self, report: Report, module: str, file: str, qualname: str, folder: str) -> None:
        before = _tops()
        cls = _class(module, file, qualname)
        plugin = Plugin(cls.__name__, cls, "the package under test")
        try:
            sink: Any = Sink(plugin.name, {}, plugin).create()
        except (SettingError, PluginError):
            sink = None  # it has options that must be given
        report(sorted(_tops() - before - set(sys.stdlib_module_names) - {module.partition(".")[0]}))
        report("" if sink is None else _open_without(plugin, Path(folder) / "run"))


def _refusal(plugin: Plugin, option: str) -> str:
    """Say how a value that is of no option's type is refused; nothing if it is taken."""
    try:
        Sink(plugin.name, {option: _Strange()}, plugin).create()
    except SettingError as error:
        return str(error)
    return ""


def _open_without(plugin: Plugin, folder: Path) -> str:
    """Say what is wrong with how the sink is opened when nothing of what it requires can be imported."""
    wanted = {name.partition(".")[0] for name in plugin.requires} - set(sys.stdlib_module_names)
    if not wanted:
        return ""
    # None in place of a module is how Python is told that it cannot be imported.
    sys.modules.update(dict.fromkeys(wanted))  # type: ignore[arg-type]
    needs = f"without {', '.join(sorted(wanted))}"
    try:
        Driver(plugin.cls(*([plugin.cls.Options()] if hasattr(plugin.cls, "Options") else [])), run_record(), folder)
    except EXPECTED_ERRORS:
        return ""
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is reported
        return f"sink_open raised {type(error).__name__}: {error} {needs}; raise SinkRejected, as backend_errors does"
    return f"sink_open succeeded {needs}, which `requires` names; name what is needed only"


def _tops() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def _class(module: str, file: str, qualname: str) -> type:
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None, file
        assert spec.loader is not None, file
        found = sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    for name in qualname.split("."):
        found = getattr(found, name)
    cls: type = found
    return cls
