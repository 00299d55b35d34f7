"""The page about evaluations works as written, for a run and files like those that it assumes."""

import re
import shlex
import shutil
from pathlib import Path

import h5py
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from click.testing import CliRunner

from aimnet2mult.cli import cli
from support.sample_runs import read_groups, train_part

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "evaluating.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(words)
    for words in re.findall(r"^(?:\| `|torchrun .*)?aimnet2mult (evaluate [^`\n]*)", TEXT, re.MULTILINE)
]
TAGS, ERRORS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


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
    exec(compile(ERRORS, "evaluating.md", "exec"), {})  # noqa: S102 - our own page
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(read_groups(folder / "new.h5"))


def test_tags_are_added_to_converted_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def labeled(number: int) -> Atoms:
        atoms = molecule(["H2O", "CH4", "NH3"][number % 3])
        atoms.info.update(REF_energy=-10.0 * len(atoms) + number, source=["md", "opt"][number % 2], charge=0, mult=1)
        return atoms

    frames = [labeled(number) for number in range(24)]
    write("new.xyz", frames, format="extxyz")
    assert CliRunner().invoke(cli, ["convert", "new.xyz", "-o", "new.h5"]).exit_code == 0
    exec(compile(TAGS, "evaluating.md", "exec"), {})  # noqa: S102 - our own page
    with h5py.File("new.h5") as file:
        found = {
            frame: source.decode()
            for group in file.values()
            for frame, source in zip(group["frame"], group["source"], strict=True)
        }
    assert found == {number: atoms.info["source"] for number, atoms in enumerate(frames)}
