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


def test_what_remains_after_subtraction_is_printed(tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", {1: -13.6, 8: -2041.0})
    with h5py.File(data, "a") as file:
        water = (np.sort(file["003/numbers"][()]) == [1, 1, 8]).all(axis=1)
        file["003/energy"][...] += np.where(water, 0.001, 0.0)
    result = CliRunner().invoke(cli, ["calc-sae", str(data), str(tmp_path / "sae.yaml")], catch_exceptions=False)
    sae = read_sae(tmp_path / "sae.yaml")
    with h5py.File(data) as file:
        left = [g["energy"][()] - np.vectorize(sae.get)(g["numbers"][()]).sum(axis=1) for g in file.values()]
    rms = np.sqrt(np.mean(np.concatenate(left) ** 2))
    worst = f"(worst: {water.sum()} x H2O, mean {left[1][water].mean():.3g} eV)"
    assert f"eV/atom, rms {rms:.3g} eV {worst}\n" in result.output


def test_elements_that_are_not_separated_and_units_other_than_ev_are_reported(tmp_path: Path) -> None:
    """A subprocess, because the warnings of the library go to stderr only if nobody else handles them."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["003/numbers"] = np.tile([8, 1, 1], (30, 1))
        file["003/coord"] = np.eye(3) + np.random.default_rng(0).normal(0, 0.1, (30, 3, 3))
        file["003/energy"] = np.random.default_rng(0).normal(-76.4, 0.01, 30)
    command = [sys.executable, "-m", "aimnet2mult.cli", "calc-sae", "a.h5", "sae.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert first == "warning: a.h5: the energies look like Hartree instead of eV; set data.units.energy=Hartree"
    assert second.startswith("warning: a.h5: the compositions do not separate the reference energies of H, O; ")


def test_names_and_units_of_the_file_are_those_of_training(tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", {1: -0.5, 8: -75.0})
    with h5py.File(data, "a") as file:
        for group in file.values():
            group.move("energy", "E_wb97m")
    words = ["calc-sae", str(data), str(tmp_path / "sae.yaml"), "data.keys.energy=E_wb97m"]
    CliRunner().invoke(cli, [*words, "data.units.energy=Hartree"], catch_exceptions=False)
    hartree = 27.211386245988
    assert read_sae(tmp_path / "sae.yaml") == pytest.approx({1: -0.5 * hartree, 8: -75 * hartree}, abs=1e-4)
    with pytest.raises(DataError, match=r"label 'energy' .* \(other arrays: E_wb97m\)"):
        CliRunner().invoke(cli, words[:3], catch_exceptions=False)


def test_a_random_subset_is_fitted_if_it_is_requested(tmp_path: Path) -> None:
    data = write(tmp_path / "a.h5", {1: -13.6, 8: -2041.0})
    with h5py.File(data, "a") as file:
        # An element of a single structure is fitted, too.
        file["003/numbers"][5] = (1, 1, 3)
        file["003/energy"][5] = 2 * -13.6 - 200.0
        file["002/energy"][...] += np.where(np.arange(200) % 2, 1e-3, -1e-3)
    words = ["calc-sae", str(data), str(tmp_path / "sae.yaml")]
    fits = []
    for options in ([], ["--samples", "20"], ["--samples", "20"], ["--samples", "400"], ["--samples=-1"]):
        result = CliRunner().invoke(cli, [*words, *options, "--verbose"], catch_exceptions=False)
        fits.append(read_sae(tmp_path / "sae.yaml"))
        assert f"\n{(tmp_path / 'sae.yaml').read_text()}" in result.output
    every, some, again, all_of_them, unlimited = fits
    assert some == again != every == all_of_them == unlimited
    assert some == pytest.approx({1: -13.6, 3: -200.0, 8: -2041.0}, abs=2e-3)


def test_a_home_folder_in_the_path_of_the_output_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data = write(tmp_path / "a.h5", {1: -13.6, 8: -2041.0})
    CliRunner().invoke(cli, ["calc-sae", str(data), "~/sae.yaml"], catch_exceptions=False)
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
    assert done.stderr == "error: invalid value for 'DATA': Path 'nowhere.h5' does not exist.\n"
