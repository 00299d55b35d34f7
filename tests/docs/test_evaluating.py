"""The page about evaluations works as written, for a run and files like those that it assumes."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from aimnet2mult.cli import cli
from support.sample_runs import read_groups, train_part

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "evaluating.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(words)
    for words in re.findall(r"^(?:\| `|torchrun .*)?aimnet2mult (evaluate [^`\n]*)", TEXT, re.MULTILINE)
]
(CODE,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a run and the files of the page."""
    run, files = train_part(tmp_path)
    run.rename(tmp_path / "RUN")
    shutil.copy(tmp_path / "RUN" / "checkpoints" / "best.pt", tmp_path / "best.pt")
    shutil.copy(files[0], tmp_path / "new.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_works_from_top_to_bottom(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) == 9
    printed = [CliRunner().invoke(cli, words) for words in COMMANDS]
    assert [(done.exit_code, done.stderr) for done in printed] == [(0, "")] * 9
    heading, shown = (re.findall(r"^energy \[.*$", text, re.MULTILINE) for text in (printed[0].stdout, TEXT))
    assert heading[0].split() == shown[0].split()
    table = re.findall(r"^\| `([\w./-]+)`", TEXT[TEXT.index("| file |") :], re.MULTILINE)
    assert all((folder / "results" / name).is_file() for name in table)
    capsys.readouterr()
    exec(compile(CODE, "evaluating.md", "exec"), {})  # noqa: S102 - our own page
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(read_groups(folder / "new.h5"))
