"""What ``import telemetry`` offers, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import telemetry
from telemetry import errors

API = """
    Alert Chart Closed Curve Divergence JournalError LeaseHeld Metric MetricBus MetricNotDeclared MetricNotFound
    NullBus Opened PackageNotInstalled PluginError Receipt Record Resumed Run RunAlive RunExists RunFolderError
    RunNotFound RunRecord Scalars SettingError Settings SinkNotFound SinkNotInstalled SinkRejected SinkUnavailable
    Status TelemetryError UnitError backend_errors charts hookimpl open_run private read_header read_receipt
    read_run with_unit
"""

HEAVY = """
    torch ignite aimnet pint numpy h5py tensorboard wandb mlflow omegaconf matplotlib plotext pandas click google
    aimnet2mult sinks
"""


def loaded_by(statements: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after some statements."""
    code = f"import json, sys\n{statements}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(out.stdout))


def test_the_public_api_is_exactly_this_list() -> None:
    assert telemetry.__all__ == API.split()
    assert sorted(telemetry.__all__) == telemetry.__all__
    assert [name for name in telemetry.__all__ if not hasattr(telemetry, name)] == []


def test_nothing_else_is_offered_but_the_modules_themselves() -> None:
    modules = {path.stem for path in Path(telemetry.__file__).parent.glob("*.py")} | {"testing", "integrations"}
    others = {name for name in vars(telemetry) if not name.startswith("_")} - set(telemetry.__all__) - modules
    assert others == set()


def test_every_error_is_public_has_one_base_and_is_the_builtin_that_it_resembles() -> None:
    kinds = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert set(kinds) <= set(telemetry.__all__)
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
