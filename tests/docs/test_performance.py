"""The performance page shows exactly the figures of the results file, and the benchmark can start."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load_report() -> Any:
    spec = importlib.util.spec_from_file_location("report_of_benchmarks", BENCHMARKS / "report.py")
    assert spec is not None
    assert spec.loader is not None
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    return report


def test_the_page_is_generated_from_the_results() -> None:
    report = load_report()
    results = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    assert report.PAGE.read_text(encoding="utf-8") == report.render(results)


def test_the_figure_of_the_page_exists() -> None:
    report = load_report()
    assert (report.PAGE.parent / report.FIGURE).exists()


def test_the_benchmark_can_import_its_modules() -> None:
    process = subprocess.run([sys.executable, "-c", "import run"], check=False, capture_output=True, cwd=BENCHMARKS)
    assert not process.returncode, process.stderr.decode()
