"""The commands and the code on the page about large data work as written, on a small file."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from aimnet2mult.cli import cli
from aimnet2mult.config.merge import read_defaults, write_yaml
from aimnet2mult.config.schema import load
from support.data_caches import write_chunked

TEXT = (Path(__file__).parents[2] / "docs/how-to/large-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [block for kind, block in BLOCKS if not kind]
((CODE,), (SETTINGS,)) = ([block for kind, block in BLOCKS if kind == wanted] for wanted in ("python", "yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "local"))
    write_chunked(tmp_path / "data.h5")
    write_yaml(tmp_path / "model.yaml", {"class": "support.tiny_model.TinyCore"})
    settings = {
        "data": {
            "fidelity_datasets": {0: "data.h5"},
            "y": ["energy"],
            "in_memory_gb": 0,
            "samplers": {"train": {"batch_size": 16}},
        },
        "loss": {"class": "support.tiny_model.SquaredLoss"},
        "optimizer": {"param_groups": {"shifts": None}},
        "trainer": {"epochs": 1},
        "telemetry": {"sinks": "none"},
    }
    write_yaml(tmp_path / "train.yaml", settings)
    return tmp_path


def run(command: str, folder: Path) -> str:
    """Run a command of the page in its process, or in a shell, and return its output."""
    name, _, rest = os.path.expandvars(command).partition(" ")
    if name != "aimnet2mult":
        shell = ["/bin/sh", "-ec", command]
        return subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=True).stdout
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', rest)]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands_and_the_code_on_the_page_do_what_it_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, check, remove, stage = COMMANDS
    (announced,) = [block for kind, block in BLOCKS if kind == "text"]
    pattern = re.escape(announced).replace("08614d7b324867ca", r"\w{16}").replace(r"68\.2\ GB", r"[\d.]+ kB")
    pattern = pattern.replace(r"data\.h5", r"\S+data\.h5").replace("cache/data", r"\S+cache/data")
    assert re.search(pattern, run(build, folder))
    (cache,) = (folder / "cache").glob("data-*")
    assert json.loads((cache / "cache.json").read_bytes().splitlines()[0])["path"] == str(folder / "data.h5")
    assert re.search(r"cache +\d+\.?\d* kB in \S*cache/data-\w+, intact", run(check, folder))
    names: dict[str, object] = {}
    exec(CODE, names)  # noqa: S102 - code of the page
    assert "'energy', 'crc32')" in capsys.readouterr().out
    assert isinstance(names["records"], np.memmap)
    run(remove, folder)
    assert not list((folder / "cache").glob("data-*"))
    assert "copying" in run(stage, folder)
    assert [path.name for path in (folder / "local").iterdir()] == [f"aimnet2mult-{os.getuid()}"]
    (folder / "stage.yaml").write_text(SETTINGS)
    config = load([folder / "train.yaml", folder / "stage.yaml"], [])
    assert config.data.stage == str(folder / "local")


def test_the_defaults_on_the_page_are_those_of_the_settings() -> None:
    defaults = read_defaults()["data"]
    for name, value in re.findall(r"^\| `data\.(\w+)` \| `([\w.]+)` \|", TEXT, re.MULTILINE):
        assert str(defaults[name]).lower().replace("none", "null") == value
