"""The performance page shows exactly the figures of the results file, and the benchmark can start."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load_page() -> Any:
    spec = importlib.util.spec_from_file_location("page_of_benchmarks", BENCHMARKS / "page.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


def test_the_page_is_generated_from_the_results() -> None:
    page = load_page()
    results = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.render(results)


def test_the_figure_of_the_page_exists() -> None:
    page = load_page()
    assert (page.PAGE.parent / page.PICTURE).exists()


def test_the_benchmark_can_import_its_modules() -> None:
    begun = subprocess.run([sys.executable, "-c", "import run"], check=False, capture_output=True, cwd=BENCHMARKS)
    assert not begun.returncode, begun.stderr.decode()
