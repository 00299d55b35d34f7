"""The import of aimnet's calculator leaves the logging of the process as it is."""

import importlib
import logging
import sys
from pathlib import Path

import pytest

import aimnet2mult
from aimnet2mult.models.aimnet_calculator import keeping_logging

CONFIGURES = "aimnet.calculators.model_registry"
"""The module of aimnet that configures logging."""


def test_importing_aimnet_does_not_configure_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    monkeypatch.delitem(sys.modules, CONFIGURES)
    with keeping_logging():
        importlib.import_module(CONFIGURES)
    assert (logging.root.handlers, logging.root.level) == ([], logging.WARNING)


def test_no_other_module_imports_aimnets_calculators() -> None:
    package = Path(aimnet2mult.__file__).parent
    files = [path for path in package.rglob("*.py") if "from aimnet.calculators" in path.read_text(encoding="utf-8")]
    assert [path.name for path in files if "examples" not in path.parts] == ["aimnet_calculator.py"]
