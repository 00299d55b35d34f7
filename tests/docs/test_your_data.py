"""The page "Your first data set" works as written, on files like those that it assumes."""

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner

from aimnet2mult.cli import cli
from aimnet2mult.config.schema import load_data_settings
from aimnet2mult.data.conversion.names import NAMES
from aimnet2mult.data.file_format import FRAMES, array_type

TEXT = (Path(__file__).parents[2] / "docs" / "tutorial" / "your-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [
    shlex.split(line)
    for kind, block in BLOCKS
    if not kind
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("aimnet2mult")
]
(OUTPUT,) = [block for kind, block in BLOCKS if kind == "text"]
(CODE,) = [block for kind, block in BLOCKS if kind == "python"]
HARTREE, BOHR = 27.211386245988, 0.529177210903
"""CODATA 2018, in eV and Å."""


def make(number: int) -> Atoms:
    rng = np.random.default_rng(number)
    atoms = molecule(["H2O", "CH4", "CH3CH2OH"][number % 3])
    atoms.rattle(0.05, rng=rng)
    return atoms


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the input files of the page."""
    monkeypatch.chdir(tmp_path)
    gfn2, wb97m = [make(number) for number in range(60)], [make(number) for number in range(60)]
    rng = np.random.default_rng(0)
    for atoms in gfn2:
        energy = -100.0 * len(atoms) + rng.normal()
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=energy,
            free_energy=energy,
            forces=rng.normal(size=(len(atoms), 3)),
            charges=rng.normal(size=len(atoms)),
        )
    for atoms in wb97m:
        atoms.info["dft_energy"] = -10.0 * len(atoms) + 0.01 * rng.normal()
        atoms.arrays["dft_forces"] = rng.normal(size=(len(atoms), 3))
    write("gfn2.xyz", gfn2, format="extxyz")
    write("wb97m.xyz", wb97m, format="extxyz")
    positions = np.stack([make(3 * number).positions for number in range(40)])
    np.savez("ccsd.npz", positions=positions, energy=-76.0 + 0.01 * rng.normal(size=40))
    return tmp_path


def test_the_page_works_from_top_to_bottom(folder: Path) -> None:
    first, second, check, _, train = COMMANDS
    done = CliRunner().invoke(cli, first[1:], catch_exceptions=False)
    assert (done.exit_code, done.output[: len(OUTPUT)]) == (0, OUTPUT)
    assert CliRunner().invoke(cli, second[1:], catch_exceptions=False).exit_code == 0
    exec(compile(CODE, "your-data.md", "exec"), {})  # noqa: S102 - our own page
    assert len(CODE.splitlines()) <= 12
    done = CliRunner().invoke(cli, check[1:], catch_exceptions=False)
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "no errors"), done.output
    settings = load_data_settings((), [word for word in train if word.startswith("data.")])
    assert list(settings.data.fidelity_datasets.values()) == [str(folder / name) for name in ("gfn2.h5", "ccsd.h5")]
    assert settings.data.y == ["energy", "forces", "charges"]
    with h5py.File(folder / "wb97m.h5") as file, h5py.File(folder / "ccsd.h5") as ccsd:
        assert np.mean(file["003/energy"]) == pytest.approx(-30 * HARTREE, rel=1e-3)
        assert np.std(file["005/forces"]) == pytest.approx(HARTREE / BOHR, rel=0.1)
        assert np.mean(ccsd["003/energy"]) == pytest.approx(-76 * HARTREE, rel=1e-3)


def table(heading: str) -> dict[str, list[str]]:
    """Return the cells of the table whose header begins with a word, by their first cell."""
    (body,) = re.findall(rf"^\| {heading} .*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()]
    return {key.strip("`"): cells for key, *cells in rows}


def test_the_table_of_names_is_complete() -> None:
    assert {key: re.findall(r"`(\w+)`", cells[0]) for key, cells in table("key").items()} == {
        key: list(names) for key, names in NAMES.items()
    }


def test_the_table_of_arrays_states_the_types_that_are_read() -> None:
    types = {key: cells[1] for key, cells in table("array").items()}
    assert types == {key: array_type(key).name for key in (*NAMES, FRAMES)}
