"""The command that fits reference energies."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from aimnet2mult.cli import calc_sae, cli
from aimnet2mult.data.reference_energies import read_sae
from aimnet2mult.errors import DataError


def write(path: Path, energies: dict[int, float]) -> Path:
    """Write structures whose energies are sums over their atoms, with some noise."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for atoms in (2, 3):
            numbers = rng.choice(list(energies), size=(200, atoms))
            file[f"{atoms:03d}/numbers"] = numbers
            file[f"{atoms:03d}/coord"] = np.arange(3.0 * atoms).reshape(atoms, 3) + rng.normal(0, 0.1, (200, atoms, 3))
            exact = np.vectorize(energies.get)(numbers).sum(-1)
            file[f"{atoms:03d}/energy"] = exact + rng.normal(scale=1e-6, size=200)
    return path


def test_reference_energies_are_written_in_the_format_of_a_run(tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", {1: -13.6, 8: -2041.0})
    result = CliRunner().invoke(cli, ["calc-sae", str(data), str(tmp_path / "sae.yaml")], catch_exceptions=False)
    assert result.exit_code == 0
    assert "sae.yaml: reference energies (eV) of the elements 1, 8" in result.output
    assert read_sae(tmp_path / "sae.yaml") == pytest.approx({1: -13.6, 8: -2041.0}, abs=1e-5)


def test_bad_structures_are_left_out_with_a_warning(tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", {1: -13.6, 8: -2041.0})
    with h5py.File(data, "a") as file:
        file["002/coord"][7, 1] = file["002/coord"][7, 0]
        file["002/energy"][7] = 1e9
    result = CliRunner().invoke(cli, ["calc-sae", str(data), str(tmp_path / "sae.yaml")], catch_exceptions=False)
    assert "warning: left out: " in result.stderr
    assert "group 002, row 7: atoms 0 and 1 are 0 Å apart" in result.stderr
    assert read_sae(tmp_path / "sae.yaml") == pytest.approx({1: -13.6, 8: -2041.0}, abs=1e-5)


def test_a_file_without_energies_is_rejected(tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", {1: 0.0})
    with h5py.File(data, "a") as file:
        for group in file.values():
            del group["energy"]
    with pytest.raises(DataError):
        CliRunner().invoke(calc_sae, [str(data), str(tmp_path / "sae.yaml")], catch_exceptions=False)
    assert not (tmp_path / "sae.yaml").exists()


def test_the_command_can_be_run_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aimnet2mult.train.calc_sae", "nowhere.h5", str(tmp_path / "sae.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: Invalid value for 'DATA': File 'nowhere.h5' does not exist.\n"
