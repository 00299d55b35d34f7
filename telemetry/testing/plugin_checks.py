"""Checks of the sink class itself: options and imports."""

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
    """Invalid options are rejected, and listing sinks imports no SDK."""

    def test_invalid_options_are_rejected_by_name(self, tmp_path: Path) -> None:
        sink = type(self.make_sink(tmp_path / "run"))
        plugin = Plugin(sink.__name__, sink, "the package under test")
        for name in (*plugin.option_types(), "no_such_option"):
            message = _rejection(plugin, name)
            assert message, f"option {name!r} accepts a value of any type; annotate its type in Options"
            assert name in message or "missing required field" in message, (
                f"the error for a value of the wrong type does not name the option {name!r}: {message}"
            )

    def test_the_sdk_is_imported_only_when_the_sink_is_opened(self, tmp_path: Path) -> None:
        sink = type(self.make_sink(tmp_path / "run"))
        file = getattr(sys.modules[sink.__module__], "__file__", None)
        with Child(
            _Importer, "import_sink", sink.__module__, file, sink.__qualname__, str(tmp_path), timeout=self.timeout
        ) as child:
            loaded = set(child.read()) - set(self.light_imports)
            assert not loaded, (
                f"importing or constructing {sink.__name__} imports {', '.join(sorted(loaded))}; import it in the "
                "function that needs it, so that listing sinks stays fast (or declare it in light_imports)"
            )
            problem = child.read()
            assert not problem, problem


class _Invalid:
    """A value that matches no option type."""


class _Importer:
    """Import the module of a sink in an otherwise empty process."""

    def import_sink(self, report: Report, module: str, file: str, qualname: str, folder: str) -> None:
        before = _top_level_modules()
        cls = _import_class(module, file, qualname)
        plugin = Plugin(cls.__name__, cls, "the package under test")
        try:
            sink: Any = Sink(plugin.name, {}, plugin).create()
        except (SettingError, PluginError):
            sink = None  # it has required options
        report(sorted(_top_level_modules() - before - set(sys.stdlib_module_names) - {module.partition(".")[0]}))
        report("" if sink is None else _open_without(plugin, Path(folder) / "run"))


def _rejection(plugin: Plugin, option: str) -> str:
    """Return the error message for a value of the wrong type; empty if it is accepted."""
    try:
        Sink(plugin.name, {option: _Invalid()}, plugin).create()
    except SettingError as error:
        return str(error)
    return ""


def _open_without(plugin: Plugin, folder: Path) -> str:
    """Open the sink without the modules it requires; return an error message, empty if it fails as it should."""
    required = {name.partition(".")[0] for name in plugin.requires} - set(sys.stdlib_module_names)
    if not required:
        return ""
    # A module that is None in sys.modules cannot be imported.
    sys.modules.update(dict.fromkeys(required))  # type: ignore[arg-type]
    without = f"without {', '.join(sorted(required))}"
    try:
        Driver(plugin.cls(*([plugin.cls.Options()] if hasattr(plugin.cls, "Options") else [])), run_record(), folder)
    except EXPECTED_ERRORS:
        return ""
    except Exception as error:  # noqa: BLE001 - any exception is reported
        return f"sink_open raised {type(error).__name__}: {error} {without}; raise SinkRejected, as backend_errors does"
    return f"sink_open succeeded {without}; remove modules that are not needed from `requires`"


def _top_level_modules() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def _import_class(module: str, file: str, qualname: str) -> type:
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
