"""Import rules that the contracts of pyproject.toml cannot express, checked in the source."""

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
from telemetry import sink_api

# Packages beyond the standard library that telemetry uses, and the only modules or subpackages that may use them.
THIRD_PARTY = {
    "msgspec": ("telemetry",),
    "pluggy": ("telemetry.plugins",),
    "pint": ("telemetry.units",),
    "click": ("telemetry.cli", "telemetry.terminal", "telemetry.usage"),
    "numpy": (
        "telemetry.reading",
        "telemetry.display",
        "telemetry.view",
        "telemetry.recording.media_content",
        "telemetry.recording.png",
    ),
    "pandas": ("telemetry.reading.run",),
    "plotext": ("telemetry.display.terminal_plot",),
    "matplotlib": ("telemetry.display.png",),
    "bokeh": ("telemetry.view",),
    "tornado": ("telemetry.view.server",),
    "psutil": ("telemetry.recording.process_probe",),
    "pynvml": ("telemetry.recording.gpu_probe",),
    "pytest": ("telemetry.testing",),
    "torch": ("telemetry.integrations",),
    "ignite": ("telemetry.integrations",),
    "accelerate": ("telemetry.integrations.accelerate",),
    "lightning": ("telemetry.integrations.lightning",),
    "lightning_utilities": ("telemetry.integrations.lightning",),
    "pytorch_lightning": ("telemetry.integrations.lightning",),
    "transformers": ("telemetry.integrations.huggingface",),
}
LAZY = {"pint", "numpy", "pandas", "plotext", "matplotlib"}
"""Packages that are imported inside functions only, so that commands and `import telemetry` start quickly."""
BACKENDS = {"tensorboard", "wandb", "mlflow"}

USES_TELEMETRY = (
    "aimnet2mult.cli",
    "aimnet2mult.config.resume_rules",  # finds runs
    "aimnet2mult.config.data_units",  # converts units with the registry of telemetry
    "aimnet2mult.config.schema",
    "aimnet2mult.config.value_checks",
    "aimnet2mult.evaluation.plots",
    "aimnet2mult.evaluation.xyz",
    "aimnet2mult.train.auto_resume",
    "aimnet2mult.train.display_units",
    "aimnet2mult.train.ending",
    "aimnet2mult.train.opening",
    "aimnet2mult.train.parity_plot",
    "aimnet2mult.train.plan",
    "aimnet2mult.train.reporter",
    "aimnet2mult.train.runner",
    "aimnet2mult.train.sink_wait",
    "aimnet2mult.train.trainer_wait",
    "aimnet2mult.train.validation_media",
)
"""The modules of the trainer that record runs or read them, or use more of telemetry than HELPERS."""
HELPERS = {
    "telemetry.errors",
    "telemetry.expectations",
    "telemetry.printable",
    "telemetry.redaction",
    "telemetry.run_folder.atomic_write",
    "telemetry.run_folder.lease",
    "telemetry.run_folder.paths",
    "telemetry.run_folder.permissions",
    "telemetry.run_folder.regular_file",
}
"""Modules of telemetry that the whole trainer may use."""


class Import(NamedTuple):
    """The target of an import statement: a module, or a name in it."""

    module: str
    name: str
    at_import: bool
    """Whether the statement runs when the file is imported."""
    for_types: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


def modules(package: str) -> dict[str, Path]:
    """Return the files of a package by module name."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    found = {}
    for path in root.rglob("*.py"):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(path: Path) -> list[Import]:
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), at_import=True, for_types=False))


def _walk(node: ast.AST, *, at_import: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, "", at_import, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (Import(child.module or "", alias.name, at_import, for_types) for alias in child.names)
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from _walk(child, at_import=at_import and not later, for_types=for_types or types)


def is_below(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


@pytest.mark.parametrize("name", modules("telemetry"))
def test_telemetry_needs_only_the_standard_library_and_the_listed_packages(name: str) -> None:
    used = {each.package for each in imports(modules("telemetry")[name])} - sys.stdlib_module_names - {"telemetry"}
    assert used <= {package for package, users in THIRD_PARTY.items() if is_below(name, users)}


def test_slow_packages_are_imported_only_when_needed() -> None:
    for name, path in modules("telemetry").items():
        for each in imports(path):
            if each.package in LAZY:
                assert each.for_types or not each.at_import, f"{name}: {each}"


def test_integrations_import_only_public_names_of_telemetry_except_the_common_part() -> None:
    for name, path in modules("telemetry").items():
        common = ("host_run", "host_values", "pending_values")
        is_common = name.rpartition(".")[2] in common
        for each in imports(path):
            if is_below(name, ("telemetry.integrations",)) and each.package == "telemetry" and not is_common:
                own = each.module.startswith("telemetry.integrations.")
                assert own or (each.module == "telemetry" and each.name in telemetry.__all__), f"{name}: {each}"


def test_sinks_import_only_the_sink_api() -> None:
    for name, path in modules("sinks").items():
        for each in imports(path):
            if each.package == "telemetry":
                assert (each.module, each.name in sink_api.__all__) == ("telemetry.sink_api", True), f"{name}: {each}"


def test_sinks_import_their_sdk_inside_functions() -> None:
    for name, path in modules("sinks").items():
        for each in imports(path):
            # NumPy is part of the base install.
            if each.package not in {*sys.stdlib_module_names, "telemetry", "sinks", "numpy"}:
                assert each.for_types or not each.at_import, f"{name}: {each}"


def test_sinks_know_neither_the_trainer_nor_its_frameworks() -> None:
    for name, path in modules("sinks").items():
        assert {each.package for each in imports(path)} & {"aimnet2mult", "torch", "ignite", "aimnet"} == set(), name


def test_only_the_listed_modules_of_the_trainer_use_telemetry() -> None:
    for name, path in modules("aimnet2mult").items():
        used = {each.module for each in imports(path) if each.package == "telemetry"}
        assert is_below(name, USES_TELEMETRY) or used <= HELPERS, f"{name}: {used}"


def test_nothing_in_the_trainer_knows_a_backend() -> None:
    for name, path in modules("aimnet2mult").items():
        assert {each.package for each in imports(path)} & {"sinks", *BACKENDS} == set(), name


def test_nothing_in_telemetry_lists_sinks() -> None:
    """The only name in the code is the default of the setting; all others come from entry points."""
    found = []
    for name, path in modules("telemetry").items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        found += [(name, value) for value in constants if value in BACKENDS]
    assert found == [("telemetry.settings", "tensorboard")]
