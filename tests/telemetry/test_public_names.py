"""The public names of ``telemetry``, and the modules that importing it loads."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import telemetry
from telemetry import errors, sink_api

FOR_TRAINERS = """
    Alert Curve Divergence JournalError LeaseHeld Metric MetricBus MetricNotDeclared MetricNotFound NullBus
    PackageNotInstalled PluginError Receipt Run RunAlive RunExists RunFolderError RunNotFound RunRecord SettingError
    Settings SinkNotFound SinkNotInstalled Status TelemetryError UnitError is_number open_run read_header read_receipt
    read_run
"""
FOR_SINKS = """
    DETAILS OVERALL PROGRESS SYSTEM VALIDATION Alert Artifact Blob Cell Chart Closed Histogram Image Media Metric
    Opened Record Resumed RunRecord RunUpdate Scalars SettingError SinkRejected SinkUnavailable Status Table
    TableContent TelemetryError Text atomic_write backend_errors charts file_mode format_error hookimpl is_inside
    is_installed local_path private_opener read_blob read_history read_table read_text redact remove_temporary_files
    stream_of sync_folder updated verified_blob with_unit
"""
OLD = """
    Chart Closed Opened Record Resumed Scalars SinkRejected SinkUnavailable backend_errors charts hookimpl private
    with_unit
"""
"""Names for sinks that sinks written for 0.1 import from ``telemetry``."""

HEAVY = """
    torch ignite aimnet pint numpy h5py tensorboard wandb mlflow omegaconf matplotlib plotext pandas click google
    aimnet2mult sinks
"""


def loaded_by(statements: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after some statements."""
    code = f"import json, sys\n{statements}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(out.stdout))


@pytest.mark.parametrize(("module", "names"), [(telemetry, FOR_TRAINERS), (sink_api, FOR_SINKS)])
def test_the_public_names_are_exactly_these(module: ModuleType, names: str) -> None:
    assert module.__all__ == names.split()
    assert sorted(module.__all__, key=lambda name: (not name.isupper(), name)) == module.__all__
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_names_that_older_sinks_import_from_telemetry_keep_working() -> None:
    for name in OLD.split():
        assert getattr(telemetry, name) is getattr(sink_api, "private_opener" if name == "private" else name)


def test_nothing_else_is_offered_but_the_modules_themselves() -> None:
    modules = {info.name for info in pkgutil.iter_modules(telemetry.__path__)}
    others = {name for name in vars(telemetry) if not name.startswith("_")} - set(telemetry.__all__) - modules
    assert others == {*OLD.split(), "private_opener"}


def test_every_error_is_public_has_one_base_and_is_the_builtin_that_it_resembles() -> None:
    kinds = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert set(kinds) <= {*telemetry.__all__, *sink_api.__all__}
    for name, kind in kinds.items():
        assert issubclass(kind, telemetry.TelemetryError), name
        builtin = [base for base in kind.__bases__ if base.__module__ == "builtins"]
        assert len(builtin) == 1, name
        assert str(kind("a message")) == "a message", name


def test_the_public_names_say_what_they_are() -> None:
    mute = [n for n in telemetry.__all__ if n not in {"Status", "hookimpl"} and not getattr(telemetry, n).__doc__]
    assert mute == []


@pytest.mark.parametrize(
    "statements",
    [
        "import telemetry",
        "from telemetry import *",
        "import telemetry; telemetry.Settings.parse({'sinks': 'tensorboard', 'tensorboard': {}})",
        # What a delivery process starts with.
        "import telemetry.delivery.worker_main",
    ],
)
def test_importing_loads_no_trainer_no_backend_and_nothing_slow(statements: str) -> None:
    assert loaded_by(statements) & set(HEAVY.split()) == set()


def test_a_sink_that_is_selected_loads_no_torch() -> None:
    pytest.importorskip("tensorboard")
    loaded = loaded_by("from telemetry.plugins.registry import select; select(['tensorboard'], {})")
    assert "sinks" in loaded
    assert (
        loaded & {"torch", "ignite", "aimnet", "pint", "wandb", "mlflow", "tensorboard", "tensorflow", "numpy"} == set()
    )


def test_the_units_of_a_run_without_units_are_checked_without_pint() -> None:
    code = "from telemetry import Metric\nfrom telemetry.units import factors\nfactors({'train/loss': Metric()})"
    assert "pint" not in loaded_by(code)
