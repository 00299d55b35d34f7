"""Who may import whom: held by reading the source, whatever is installed."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import telemetry

# From the bottom up: each imports only what stands in a layer below its own.
LAYERS = (
    ("errors", "records", "files", "identity", "redact", "printable"),
    ("cadence", "units", "hookspecs", "journal", "alive", "progress", "chart", "lines", "curve", "extras", "selection"),
    ("plugins", "reader", "lease", "watch", "state"),
    ("settings", "keeper", "receipt", "run", "export", "glance", "console"),
    ("delivery", "plot", "catalogue"),
    ("workers", "terminal", "figure"),
    ("worker", "bus", "screen"),
    ("session", "nullbus", "looking"),
    ("cli",),
    ("__main__", "__init__"),
)
# The contract kit stands above all that, and is imported by none of it.
TESTING = (
    ("points", "fakes", "child"),
    ("kit",),
    ("content_checks", "restart_checks", "fault_checks", "plugin_checks"),
    ("contract",),
    ("__init__",),
)
# Outside the rule on imports: what needs a framework, and knows of telemetry no more than its public names.
INTEGRATIONS = {
    "__init__": set(),
    "held": {"torch"},
    "ignite": {"torch", "ignite"},
}
TELEMETRY = [name for layer in LAYERS for name in layer]

# What telemetry may use beside the standard library, and where; the rest of it runs without.
THIRD_PARTY = {
    "msgspec": set(TELEMETRY),
    "pluggy": {"hookspecs", "plugins"},
    "pint": {"units"},
    "click": {"cli", "console", "looking"},
    "numpy": {"curve", "run", "plot", "terminal", "figure"},
    "pandas": {"run"},
    "plotext": {"terminal"},
    "matplotlib": {"figure"},
}
MAY_TOUCH_TELEMETRY = {
    "aimnet2mult.cli",
    "aimnet2mult.config",
    "aimnet2mult.train.plan",
    "aimnet2mult.train.reporting",
    "aimnet2mult.train.runner",
}


class Import(NamedTuple):
    """One import statement's target: a module, or a name in it; and whether it runs when the file is imported."""

    module: str
    name: str
    at_import: bool
    for_types: bool


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by full name; a package itself by its own."""
    root = folder_of(package)
    out = {}
    for path in root.rglob("*.py"):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


@cache
def imports(path: Path) -> list[Import]:
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), at_import=True, for_types=False))


def _walk(node: ast.AST, *, at_import: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, "", at_import, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are written out in full"
            yield from (Import(child.module or "", alias.name, at_import, for_types) for alias in child.names)
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from _walk(child, at_import=at_import and not later, for_types=for_types or types)


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Which of the known modules a file imports, in whatever way."""
    found = set()
    for each in imports(path):
        inner = f"{each.module}.{each.name}"
        found |= {inner} & known.keys() or {each.module} & known.keys()
    return found


def tops(path: Path) -> set[str]:
    return {each.module.partition(".")[0] for each in imports(path)}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that nobody can import first; none if there is no cycle."""
    left = dict(graph)
    while ready := [name for name, needs in left.items() if not needs & left.keys() - {name}]:
        for name in ready:
            del left[name]
    return sorted(left)


def test_the_list_of_layers_names_every_module_of_telemetry_once() -> None:
    there = {path.stem for path in folder_of("telemetry").glob("*.py")}
    assert len(TELEMETRY) == len(set(TELEMETRY))
    assert set(TELEMETRY) == there
    kit = [name for layer in TESTING for name in layer]
    assert sorted(kit) == sorted(path.stem for path in (folder_of("telemetry") / "testing").glob("*.py"))
    assert set(INTEGRATIONS) == {path.stem for path in (folder_of("telemetry") / "integrations").glob("*.py")}
    folders = {path.name for path in folder_of("telemetry").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == {"testing", "integrations"}


@pytest.mark.parametrize(("level", "name"), [(i, name) for i, layer in enumerate(TESTING) for name in layer])
def test_each_module_of_the_contract_kit_imports_only_from_below(level: int, name: str) -> None:
    path = folder_of("telemetry") / "testing" / f"{name}.py"
    lower = {f"telemetry.testing.{below}" for layer in TESTING[:level] for below in layer}
    core = {f"telemetry.{below}" for below in TELEMETRY if below not in {"__init__", "__main__"}}
    assert imported_modules(path, modules("telemetry")) <= lower | core
    assert tops(path) - sys.stdlib_module_names <= {"telemetry", "pytest"}


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_an_integration_imports_its_framework_and_only_public_names_of_telemetry(name: str) -> None:
    path = folder_of("telemetry") / "integrations" / f"{name}.py"
    assert tops(path) - sys.stdlib_module_names - {"telemetry"} <= INTEGRATIONS[name]
    for each in imports(path):
        if each.module == "telemetry":
            assert each.name in telemetry.__all__, each
        else:
            assert each.module.startswith("telemetry.integrations.") or not each.module.startswith("telemetry"), each


@pytest.mark.parametrize("name", TELEMETRY)
def test_each_module_of_telemetry_imports_only_from_below(name: str) -> None:
    known = modules("telemetry")
    path = folder_of("telemetry") / f"{name}.py"
    below = next(layers for layers in range(len(LAYERS)) if name in LAYERS[layers])
    allowed = {f"telemetry.{lower}" for layer in LAYERS[:below] for lower in layer}
    assert imported_modules(path, known) <= allowed


@pytest.mark.parametrize("name", TELEMETRY)
def test_telemetry_needs_nothing_but_the_standard_library_and_what_is_listed(name: str) -> None:
    used = tops(folder_of("telemetry") / f"{name}.py") - sys.stdlib_module_names - {"telemetry"}
    assert used <= {package for package, users in THIRD_PARTY.items() if name in users}


def test_pint_is_imported_only_when_a_unit_is_converted() -> None:
    found = [each for each in imports(folder_of("telemetry") / "units.py") if each.module == "pint"]
    assert found
    assert all(each.for_types or not each.at_import for each in found)


def test_what_draws_and_counts_is_imported_only_when_it_is_needed() -> None:
    for name in TELEMETRY:
        for each in imports(folder_of("telemetry") / f"{name}.py"):
            if each.module.partition(".")[0] in {"numpy", "pandas", "plotext", "matplotlib"}:
                assert each.for_types or not each.at_import, f"{name}: {each}"


def test_sinks_import_only_the_public_names_of_telemetry() -> None:
    public = set(telemetry.__all__)
    for name, path in modules("sinks").items():
        for each in imports(path):
            if each.module.partition(".")[0] == "telemetry":
                assert (each.module, each.name in public) == ("telemetry", True), f"{name}: {each}"


def test_sinks_import_their_sdk_inside_functions_and_nothing_of_the_trainer() -> None:
    for name, path in modules("sinks").items():
        for each in imports(path):
            top = each.module.partition(".")[0]
            assert top not in {"aimnet2mult", "torch", "ignite", "aimnet"}, f"{name}: {each}"
            # NumPy is no SDK: it comes with the base install.
            if top not in {*sys.stdlib_module_names, "telemetry", "sinks", "numpy"}:
                assert each.for_types or not each.at_import, f"{name}: {each}"


def test_sinks_do_not_know_one_another() -> None:
    known = modules("sinks")
    public = {name for name in known if name.endswith("_sink")}
    assert public
    for name, path in known.items():
        assert imported_modules(path, known) & public - {name} == set(), name


def test_only_the_seams_of_the_trainer_touch_telemetry() -> None:
    users = {name for name, path in modules("aimnet2mult").items() if "telemetry" in tops(path)}
    assert users <= MAY_TOUCH_TELEMETRY


def test_nothing_in_the_trainer_knows_a_sink() -> None:
    names = {name.rpartition(".")[2] for name in modules("sinks")} | {"tensorboard", "wandb", "mlflow"}
    for name, path in modules("aimnet2mult").items():
        assert "sinks" not in tops(path), name
        assert tops(path) & names == set(), name


def test_nothing_in_telemetry_lists_sinks() -> None:
    """The one name in the code is the default of the setting; all others come from entry points."""
    found = []
    for name, path in modules("telemetry").items():
        constants = (
            n.value for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)
        )
        found += [(name, value) for value in constants if value in {"tensorboard", "wandb", "mlflow"}]
    assert found == [("telemetry.settings", "tensorboard")]


@pytest.mark.parametrize("package", ["telemetry", "sinks", "aimnet2mult"])
def test_no_package_has_a_cycle_of_imports(package: str) -> None:
    known = modules(package)
    assert cycle({name: imported_modules(path, known) for name, path in known.items()}) == []


def test_a_cycle_would_be_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_data_models_and_configuration_stand_below_training() -> None:
    known = modules("aimnet2mult")
    for name, path in known.items():
        above = {
            other
            for other in imported_modules(path, known)
            if other.startswith(("aimnet2mult.train", "aimnet2mult.cli"))
        }
        if not name.startswith(("aimnet2mult.train", "aimnet2mult.cli")):
            assert above == set(), name


def test_only_the_command_line_starts_a_run() -> None:
    known = modules("aimnet2mult")
    users = {name for name, path in known.items() if "aimnet2mult.train.runner" in imported_modules(path, known)}
    assert users <= {"aimnet2mult.cli"}


def test_only_the_contract_kits_users_import_it() -> None:
    """``telemetry.testing`` and ``telemetry.integrations`` are for others."""
    for package in ("telemetry", "sinks", "aimnet2mult"):
        for name, path in modules(package).items():
            if not name.startswith(("telemetry.testing", "telemetry.integrations")):
                for each in imports(path):
                    assert not f"{each.module}.{each.name}".startswith(
                        ("telemetry.testing", "telemetry.integrations")
                    ), name
