"""The commands and the code on the page about splits work as written, on a part of the sample data."""

import re
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import aimnet2mult
from aimnet2mult.cli import cli
from telemetry import Run, read_run

TEXT = (Path(__file__).parents[2] / "docs/how-to/splits.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [
    shlex.split(block.replace("\\\n", " "))[1:]
    for kind, block in BLOCKS
    if not kind and block.startswith("aimnet2mult ")
]
(CODE,) = [block for kind, block in BLOCKS if kind == "python"]
SHORT = ["trainer.epochs=10", "data.samplers.train.batches_per_epoch=1", "telemetry.sinks=none"]
"""A short training instead of that of the sample data."""
STRUCTURES = 30
"""Number of structures of each group that are used."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sample = Path(aimnet2mult.__file__).parent / "sample"
    shutil.copytree(sample, tmp_path / "sample-data", ignore=shutil.ignore_patterns("*.h5"))
    for name in ("gfn1.h5", "spgfn2.h5"):
        with h5py.File(sample / name) as whole, h5py.File(tmp_path / "sample-data" / name, "w") as part:
            for group, arrays in whole.items():
                for key, array in arrays.items():
                    part[f"{group}/{key}"] = array[:STRUCTURES]
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(folder: Path, command: list[str], number: int) -> Run:
    arguments = [word.replace("RUN/", f"{folder}/RUN/") for word in command]
    result = CliRunner().invoke(cli, [*arguments, *SHORT, "--telemetry-dir", str(folder / f"runs-{number}")])
    assert result.exit_code == 0, result.output
    (run,) = (folder / f"runs-{number}").iterdir()
    if not number:
        run.rename(folder / "RUN")
        run = folder / "RUN"
    return read_run(run)


@pytest.mark.slow
def test_the_commands_and_the_code_on_the_page_do_what_it_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested, again, whole, evaluated = (train(folder, command, number) for number, command in enumerate(COMMANDS))
    assert tested.curves["test/E_rmse"].steps.tolist() == [10]
    weights = tested.curves["test/weights_iteration"].values[0]
    errors = tested.curves["val/E_rmse"]
    assert weights == errors.steps[np.argmin(errors.values)]
    assert again.curves["val/E_rmse"].values == pytest.approx(errors.values, rel=1e-4)
    assert len(again.curves["test/E_rmse"]) == 1
    assert not any(name.startswith("val/") for name in whole.curves)
    assert evaluated.curves["train_eval/E_rmse"].steps.tolist() == [10]
    with h5py.File(folder / "sample-data/gfn1.h5") as file:
        structures = sum(len(group["numbers"]) for group in file.values())
    capsys.readouterr()
    names: dict[str, np.ndarray] = {}
    exec(CODE, names)  # noqa: S102 - code of the page
    counts = [round(structures * fraction) for fraction in (0.8, 0.1, 0.1)]
    printed = [int(word) for word in re.findall(r"\d+", capsys.readouterr().out)]
    assert printed == pytest.approx(counts, abs=1)
    assert len(names["test_rows"]) == printed[2]
