"""The code in docs/how-to/writing-a-sink.md equals the example and works as shown."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from telemetry import testing
from telemetry.cli import main
from telemetry.plugins import hookspecs
from telemetry.testing import SinkContract
from telemetry.testing.kit import Kit

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "telemetry-sink-csv"
TEXT = (ROOT / "docs" / "how-to" / "writing-a-sink.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
FILES = {
    match[1]: match[2] for _, block in BLOCKS if (match := re.match(r"# (\S+\.(?:py|toml))\n(.*)", block, re.DOTALL))
}
SNIPPETS = [block for kind, block in BLOCKS if kind == "python" and not block.startswith("# ")]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the files from the page the way pip would."""
    info = tmp_path / "site" / "telemetry_sink_csv-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: telemetry-sink-csv\nVersion: 0.1.0\n", encoding="utf-8"
    )
    point = re.search(r'(\[project\.entry-points\."telemetry\.sinks"\])\n(csv = ".*")\n', FILES["pyproject.toml"])
    assert point is not None
    (info / "entry_points.txt").write_text("[telemetry.sinks]\n" + point[2].replace('"', ""), encoding="utf-8")
    (tmp_path / "site" / "telemetry_sink_csv.py").write_text(FILES["telemetry_sink_csv.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "telemetry_sink_csv", raising=False)


def test_the_files_on_the_page_equal_the_example() -> None:
    assert sorted(FILES) == ["pyproject.toml", "telemetry_sink_csv.py", "tests/test_contract.py"]
    for name, text in FILES.items():
        assert text == (EXAMPLE / name).read_text(encoding="utf-8"), name


@pytest.mark.usefixtures("installed")
def test_the_sink_on_the_page_passes_the_contract_tests(tmp_path: Path) -> None:
    path = tmp_path / "test_contract.py"
    path.write_text(FILES["tests/test_contract.py"], encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "--rootdir", tmp_path, path]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    checks = [name for name, _ in inspect.getmembers(SinkContract) if name.startswith("test_")]
    assert f"{len(checks)} passed in" in done.stdout, done.stdout
    assert done.returncode == 0


@pytest.mark.usefixtures("installed")
def test_the_list_of_sinks_contains_the_lines_on_the_page() -> None:
    (shown,) = [block for _, block in BLOCKS if block.startswith("csv  (")]
    assert shown in CliRunner().invoke(main, ["sinks"]).stdout


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_other_code_on_the_page_runs(number: int, tmp_path: Path) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPETS[number], encoding="utf-8")
    runpy.run_path(str(path))


def test_every_hook_has_a_heading_with_its_arguments() -> None:
    headings = re.findall(r"^### `(\w+)\((.*?)\)", TEXT, re.MULTILINE)
    specs = {
        name: ", ".join(list(inspect.signature(hook).parameters)[1:])
        for name, hook in inspect.getmembers(hookspecs.SinkHooks, inspect.isfunction)
    }
    assert dict(headings) == specs


def test_every_name_for_sink_authors_is_mentioned() -> None:
    own = {"open_sink", "deliver", "expected", "shown", "check_shows", "check_claim", "child"}
    offered = {name for name in vars(Kit) if not name.startswith("_")} - own
    assert {name for name in {*offered, *testing.__all__} if f"`{name}" not in TEXT and name != "Point"} == set()
    assert "Point(name, step, value, time, unit)" in TEXT


def test_the_example_needs_neither_torch_nor_a_backend() -> None:
    names = set(re.findall(r"^(?:import|from) (\w+)", FILES["telemetry_sink_csv.py"], re.MULTILINE))
    assert names - sys.stdlib_module_names == {"telemetry"}
