"""The code in docs/how-to/other-trainers.md equals the examples and runs as shown."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path

import pytest

from telemetry import read_run
from telemetry.integrations import ignite
from telemetry.journal.reader import JournalReader
from telemetry.records import Histogram, Scalars

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "how-to" / "other-trainers.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def files(text: str) -> dict[str, str]:
    """Return the quoted files of a page, by their path in examples/."""
    found = (re.match(r"# (\S+\.(?:py|yaml))\n(.*)", block, re.DOTALL) for _, block in blocks(text))
    return {match[1]: match[2] for match in found if match}


BLOCKS, FILES = blocks(TEXT), files(TEXT)


def test_the_files_on_the_page_equal_the_examples() -> None:
    assert sorted(FILES) == ["aimnet_trainer/train.yaml", "aimnet_trainer/with_telemetry.py", "plain_loop.py"]
    for name, text in FILES.items():
        assert text == (ROOT / "examples" / name).read_text(encoding="utf-8"), name


def test_the_page_of_mace_shows_its_example() -> None:
    found = files((ROOT / "docs" / "how-to" / "mace.md").read_text(encoding="utf-8"))
    assert found == {"mace/train.py": (ROOT / "examples" / "mace" / "train.py").read_text(encoding="utf-8")}


def test_the_media_code_on_the_page_records_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = [block for _, block in BLOCKS if "bus.image" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snippet.py").write_text(snippet.replace('sinks="tensorboard"', "sinks=[]"), encoding="utf-8")
    runpy.run_path("snippet.py")
    run = read_run("runs/media")
    assert [type(record).__name__ for record in run.media] == ["Text", "Table", "Histogram", "Image", "Artifact"]
    assert all(run.blob(record) for record in run.media if not isinstance(record, Histogram))


def test_the_page_shows_every_file_of_its_examples() -> None:
    there = {path.name for path in (ROOT / "examples" / "aimnet_trainer").iterdir() if path.is_file()}
    assert {f"aimnet_trainer/{name}" for name in there} <= set(FILES)


def test_the_ignite_code_on_the_page_runs_and_publishes_the_streams_of_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snippet,) = [
        block for kind, block in BLOCKS if kind == "python" and "attach(" in block and not block.startswith("# ")
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snippet.py").write_text(snippet, encoding="utf-8")
    runpy.run_path("snippet.py")
    records = [r for r in JournalReader(Path("runs/ignite")).read(1000, live=False) if isinstance(r, Scalars)]
    steps = {stream: [r.step for r in records if r.stream == stream] for stream in {r.stream for r in records}}
    due = list(range(50, 601, 50))
    assert steps == {"train": due, "train_window": due, "val": [200, 400, 600]}
    assert {name for record in records for name in record.names()} == {
        "train/loss",
        "train/lr",
        "train_window/loss",
        "val/rmse",
    }


def test_the_page_and_the_docstring_of_attach_name_the_same_streams() -> None:
    section = TEXT.partition("## Any ignite trainer")[2]
    page = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    docstring = re.findall(r"^\| (\w+) +\|", inspect.getdoc(ignite.attach) or "", re.MULTILINE)
    assert page == [name for name in docstring if name != "stream"] == ["train", "train_window", "train_epoch", "val"]
