"""All benchmarks work: each of their parts runs, at the smallest size."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("part", ["loggers", "options"])
def test_a_part_of_the_benchmarks_runs(part: str, tmp_path: Path) -> None:
    # The SDKs must not log in, or write elsewhere.
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests/lib'}:{os.environ.get('PYTHONPATH', '')}"}
    env |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    _run(["-m", "support.small_benchmarks", part], tmp_path, env)


def test_the_benchmark_of_other_frameworks_runs(tmp_path: Path) -> None:
    for package in ("lightning", "transformers", "accelerate"):
        pytest.importorskip(package)
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests/lib'}:{os.environ.get('PYTHONPATH', '')}"}
    _run(["-m", "support.small_benchmarks", "hosts"], tmp_path, env)


def test_the_micro_benchmarks_run(tmp_path: Path) -> None:
    for package in ("pytest_benchmark", "torchmetrics"):
        pytest.importorskip(package)
    _run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable", "benchmarks/micro"], ROOT, os.environ)


def _run(arguments: list[str], folder: Path, env: "os._Environ[str] | dict[str, str]") -> None:
    done = subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, cwd=folder, env=env, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_cases_of_an_operation_have_different_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    operation_of = importlib.import_module("run").operation_of
    assert operation_of("test_read_run[one training curve]", {"metrics": []}) == "read run, one training curve"
    assert operation_of("test_scaling_with_sinks[8]", {"size": 8}) == "scaling with sinks"
    assert operation_of("test_publish", {}) == "publish"
