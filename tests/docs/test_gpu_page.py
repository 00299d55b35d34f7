"""The page about GPUs shows exactly the published results, or says that there are none; the check can be rehearsed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def load_report() -> Any:
    return load(ROOT / "benchmarks" / "gpu_report.py")


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def results(device: str = "cuda") -> dict[str, Any]:
    calls = {"training": {"cudaLaunchKernel": 500, "cudaMemcpyAsync": 20}, "others": {"cuLaunchKernel": 300}}
    waiting = {
        "training": {"cudaLaunchKernel": 600, "cudaStreamSynchronize": 10},
        "others": {"cudaEventSynchronize": 9},
    }
    return {
        "date": "2026-01-02",
        "device": device,
        "machine": {"GPU": "Model 1"},
        "seconds": 400.0,
        "parts": {
            "tests": {"result": "7 passed, 1 skipped", "seconds": 60.0},
            "launches": {
                "result": "…",
                "seconds": 50.0,
                "iterations": 10,
                "profiles": {"bare": calls, "between": calls, "due": waiting},
            },
            "step time": {"result": "…", "seconds": 1.0, "ms": {"bare": [5.0, 6.0, 7.0], "three": [5.5, 6.4, 7.6]}},
        },
    }


def test_the_page_is_generated_from_the_published_results() -> None:
    report = load_report()
    assert report.PAGE.read_text(encoding="utf-8") == report.render_page(report.read_results())


def test_without_results_the_page_says_so() -> None:
    assert "none of the code for CUDA has run on a GPU" in load_report().render_page(None)


def test_the_tables_show_calls_per_iteration_and_differences_of_rounds() -> None:
    lines = load_report().render_page(results()).splitlines()
    assert "| kernel launches | 80.00 / 50.00 | 80.00 / 50.00 | 60.00 / 60.00 |" in lines
    assert "| `cudaStreamSynchronize` | 0.00 / 0.00 | 0.00 / 0.00 | 1.00 / 1.00 |" in lines
    assert "| telemetry, TensorBoard, W&B (offline) and MLflow | 6.400 | +0.500 (+0.400 to +0.600) |" in lines
    assert "| tests | 7 passed, 1 skipped | 60 |" in lines


def test_only_waits_of_the_training_are_counted() -> None:
    report = load_report()
    profiles = results()["parts"]["launches"]["profiles"]
    assert report.waits_of(profiles["between"]) == 0
    assert report.waits_of(profiles["due"]) == 10


@pytest.mark.slow
def test_the_check_can_be_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "gpu_check.py", "--device", "cpu", "--skip-setup", "--out", tmp_path]
    variants = ("bare", "three", "between")
    options = ["--iterations", "2", "--rounds", "1", "--variants", *variants, "--tests", ROOT / "tests/gpu/test_use.py"]
    process = subprocess.run([*map(str, [*command, *options])], check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert found["ok"]
    assert found["parts"]["tests"]["passed"] == 5
    assert {name: len(values) for name, values in found["parts"]["step time"]["ms"].items()} == {
        "bare": 1,
        "three": 1,
    }
    assert list(found["parts"]["launches"]["profiles"]) == ["bare", "between"]
    assert "A rehearsal on the CPU" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_part_that_fails_is_named_and_the_others_still_run(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "gpu_check.py", "--device", "cpu", "--skip-setup", "--out", tmp_path]
    # Too little time for anything.
    process = subprocess.run([*map(str, command), "--minutes", "0.01"], check=False, capture_output=True, text=True)
    assert process.returncode == 1
    parts = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["setup", "tests", "launches", "step time"]
    assert [part["result"].partition(":")[0] for part in parts.values()] == ["left out", *["FAILED"] * 3]


def test_without_a_gpu_the_check_ends_at_once_and_says_why(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--out", str(tmp_path)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert process.returncode == 1
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    setup, *others = (part["result"] for part in found["parts"].values())
    assert "NVIDIA driver" in setup
    assert others == ["FAILED: left out, because setup has failed"] * 3
    assert found["seconds"] < 30


def test_a_missing_driver_is_named() -> None:
    problem = load(ROOT / "tools" / "gpu_check.py").driver_problem("libcuda-missing.so.1")
    assert problem.startswith("there is no NVIDIA driver: libcuda-missing.so.1 is missing")
