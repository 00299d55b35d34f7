"""The command that converts files of other programs, with files written by ASE and NumPy."""

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from click.testing import CliRunner, Result

from aimnet2mult.cli import cli
from aimnet2mult.errors import ConfigError, DataError

HARTREE, BOHR = 27.211386245988, 0.529177210903
"""CODATA 2018, in eV and Å."""


def make(name: str, seed: int, **info: Any) -> Atoms:
    """Return a displaced molecule with energy, forces and charges; values of ``info`` that are None remove a result."""
    rng = np.random.default_rng(seed)
    atoms = molecule(name)
    atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
    results = {
        "energy": -1000.0 * len(atoms) + rng.normal(),
        "forces": rng.normal(size=(len(atoms), 3)),
        "charges": rng.normal(size=len(atoms)),
    }
    removed = {key for key, value in info.items() if value is None}
    atoms.calc = SinglePointCalculator(atoms, **{key: results[key] for key in results.keys() - removed})
    atoms.info = {key: value for key, value in info.items() if value is not None}
    return atoms


@pytest.fixture
def frames() -> list[Atoms]:
    return [make(name, seed) for seed, name in enumerate(["H2O", "CH4", "NH3", "SiH4", "H2O", "CH4"])]


def write_database(path: Path, frames: Sequence[Atoms]) -> None:
    with connect(path) as database:
        for atoms in frames:
            database.write(atoms, key_value_pairs=atoms.info)


def write_compressed(path: Path, frames: Sequence[Atoms]) -> None:
    plain = path.with_suffix("")
    write(plain, frames, format="extxyz")
    path.write_bytes(gzip.compress(plain.read_bytes()))


WRITERS: Mapping[str, Callable[[Path, Sequence[Atoms]], object]] = {
    "a.xyz": lambda path, frames: write(path, frames, format="extxyz"),
    "a.extxyz": lambda path, frames: write(path, frames, format="extxyz"),
    "a.xyz.gz": write_compressed,
    "a.db": write_database,
    "a.traj": write,
}


def write_xyz(folder: Path, frames: Sequence[Atoms], name: str = "a.xyz") -> Path:
    write(folder / name, frames, format="extxyz")
    return folder / name


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["convert", *map(str, words)], catch_exceptions=False)


def convert(tmp_path: Path, *words: object) -> dict[str, np.ndarray[Any, Any]]:
    """Convert, and return the arrays by group and name."""
    out = tmp_path / "out.h5"
    result = invoke(*words, "-o", out)
    assert result.exit_code == 0, result.output
    with h5py.File(out) as file:
        return {f"{size}/{key}": array[()] for size, group in file.items() for key, array in group.items()}


def error(tmp_path: Path, *words: object) -> list[str]:
    """Convert, and return the lines of the error; nothing must be left of the output."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ConfigError, DataError)) as caught:
        invoke(*words, "-o", tmp_path / "out.h5")
    assert sorted(tmp_path.iterdir()) == before
    return str(caught.value).split("\n")


@pytest.mark.parametrize("name", WRITERS)
def test_structures_are_grouped_by_size_with_all_values(tmp_path: Path, frames: list[Atoms], name: str) -> None:
    WRITERS[name](tmp_path / name, frames)
    arrays = convert(tmp_path, tmp_path / name)
    for size in (3, 4, 5):
        own = [atoms for atoms in frames if len(atoms) == size]
        group = f"{size:03d}"
        expected = {
            "numbers": np.stack([atoms.numbers for atoms in own]),
            "coord": np.stack([atoms.positions for atoms in own]),
            "energy": np.array([atoms.get_potential_energy() for atoms in own]),
            "forces": np.stack([atoms.get_forces() for atoms in own]),
            "charges": np.stack([atoms.get_charges() for atoms in own]),
            "frame": np.array([number for number, atoms in enumerate(frames) if len(atoms) == size]),
        }
        assert {key for key in arrays if key.startswith(group)} == {f"{group}/{key}" for key in expected}
        for key, values in expected.items():
            np.testing.assert_allclose(arrays[f"{group}/{key}"], values, rtol=1e-6, atol=2e-8, err_msg=key)
        np.testing.assert_allclose(arrays[f"{group}/energy"], expected["energy"], rtol=1e-12)
    types = {key.partition("/")[2]: array.dtype for key, array in arrays.items()}
    assert types == {
        "numbers": np.int32,
        "coord": np.float32,
        "energy": np.float64,
        "forces": np.float32,
        "charges": np.float32,
        "frame": np.int32,
    }


def test_problems_found_in_the_output_name_the_frame_of_the_input(tmp_path: Path, frames: list[Atoms]) -> None:
    frames[4].positions[1] = frames[4].positions[0]
    first, second = write_xyz(tmp_path, frames[:2], "a.xyz"), write_xyz(tmp_path, frames[2:], "b.xyz")
    result = invoke(first, second, "-o", tmp_path / "out.h5", "--charge", "0", "--mult", "1")
    assert result.exit_code == 1
    *_, problem, remedy, _ = result.output.splitlines()
    assert problem.startswith(f"error: {tmp_path / 'out.h5'}, group 003, row 1 (frame 4): atoms 0 and 1 are 0 Å apart")
    assert remedy == "correct bad structures, or leave them out of training with data.on_bad_structure=skip"


def test_labels_that_are_not_finite_are_counted_with_the_first_frame(tmp_path: Path, frames: list[Atoms]) -> None:
    frames[3].calc.results["energy"] = np.nan
    frames[4].calc.results["forces"][2, 1] = np.inf
    frames[5].calc.results["forces"][0, 0] = np.nan
    result = invoke(path := write_xyz(tmp_path, frames), "-o", tmp_path / "out.h5")
    assert f"  energy                NaN or infinite in 1 structure ({path}, frame 3)" in result.output
    assert f"  forces                NaN or infinite in 2 structures (such as {path}, frame 4)" in result.output


def test_the_output_says_what_was_read_and_checks_it(tmp_path: Path, frames: list[Atoms]) -> None:
    frames[2].info["note"] = "relaxed"
    result = invoke(write_xyz(tmp_path, frames), "-o", tmp_path / "out.h5", "--charge", "0")
    assert result.exit_code == 0
    assert result.output.startswith(f"wrote {tmp_path / 'out.h5'}: 6 structures\n")
    for line in (
        "energy                energy [eV]",
        "forces                forces [eV/Å]",
        "charge                0 for 6 structures, as stated",
        "mult                  not stated; training assumes 1 (state it with --mult)",
        "no labels             spin_charges, dipole, quadrupole",
        "not converted         note",
        "structures            6 in 3 groups",
    ):
        assert f"  {line}\n" in result.output
    assert result.output.endswith("no errors\n")


def test_names_and_units_of_the_input_can_be_given(tmp_path: Path) -> None:
    frames = [make("H2O", seed, energy=None, forces=None, dft=-76.0 - seed) for seed in range(3)]
    gradients = np.random.default_rng(1).normal(size=(3, 3, 3))
    for atoms, gradient in zip(frames, gradients, strict=True):
        atoms.arrays["dft_forces"] = gradient
        atoms.positions /= BOHR
    words = ["--key", "energy=dft", "--key", "forces=dft_forces"]
    words += ["--unit", "energy=Ha", "--unit", "forces=Ha/bohr", "--unit", "coord=bohr"]
    arrays = convert(tmp_path, write_xyz(tmp_path, frames), *words)
    np.testing.assert_allclose(arrays["003/energy"], np.array([-76.0, -77.0, -78.0]) * HARTREE, rtol=1e-9)
    np.testing.assert_allclose(arrays["003/forces"], gradients * HARTREE / BOHR, rtol=1e-5, atol=1e-5)
    positions = [atoms.positions * BOHR for atoms in frames]
    np.testing.assert_allclose(arrays["003/coord"], positions, rtol=1e-5, atol=1e-6)


def test_a_label_that_some_structures_lack_is_nan_there(tmp_path: Path) -> None:
    frames = [make("H2O", 0), make("CH4", 1, forces=None), make("H2O", 2, energy=None), make("H2O", 3)]
    arrays = convert(tmp_path, write_xyz(tmp_path, frames))
    assert np.isnan(arrays["003/energy"]).tolist() == [False, True, False]
    assert np.isnan(arrays["005/forces"]).all()
    assert np.isfinite(arrays["003/forces"]).all()


def test_several_files_become_one(tmp_path: Path, frames: list[Atoms]) -> None:
    write_database(tmp_path / "b.db", frames[3:])
    arrays = convert(tmp_path, write_xyz(tmp_path, frames[:3]), tmp_path / "b.db")
    energies = [atoms.get_potential_energy() for atoms in frames if len(atoms) == 5]
    np.testing.assert_allclose(arrays["005/energy"], energies, rtol=1e-12)


def test_charge_and_multiplicity_are_those_of_the_file_or_as_stated(tmp_path: Path) -> None:
    frames = [make("CH3", 0, charge=1, multiplicity=1), make("CH3", 1)]
    path = write_xyz(tmp_path, frames)
    assert error(tmp_path, path) == [
        f"{path}, frame 1: no charge, as in 1 of 2 structures; state it for them with --charge",
        f"{path}, frame 1: no mult, as in 1 of 2 structures; state it for them with --mult",
    ]
    arrays = convert(tmp_path, path, "--charge", "0", "--mult", "2")
    assert (arrays["004/charge"].tolist(), arrays["004/mult"].tolist()) == ([1, 0], [1, 2])


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    frames = [make("H2O", 0), make("H2O", 1), make("H2O", 2), make("H2O", 3, energy=None, REF_energy="unknown")]
    frames[1].set_cell([5, 5, 5])
    frames[1].pbc = True
    path = write_xyz(tmp_path, frames)
    lines = path.read_text().splitlines()
    lines[13] = lines[13].replace("H ", "H x")
    other = write_xyz(tmp_path, [make("H2O", 4)], "b.xyz")
    other.write_text("\n".join(other.read_text().splitlines()[:-1]))
    path.write_text("\n".join(lines))
    (tmp_path / "empty.xyz").touch()
    found = error(tmp_path, path, other, tmp_path / "empty.xyz", "--key", "charge=net")
    assert found[0].startswith(f"{path}, frame 1: the structure is periodic, but training treats it as")
    assert found[1].startswith(f"{path}, frame 2: cannot be read: could not convert string to float: 'x")
    assert found[2] == f"{path}, frame 3: 'REF_energy' is 'unknown'; expected a number"
    assert found[3:5] == [
        f"{other}, frame 0: the file ends before 3 atoms; it is truncated",
        f"{tmp_path / 'empty.xyz'} has no structures",
    ]
    assert found[5].startswith("--key charge=net: no structure has 'net'; found: ")
    assert len(found) == 6


def test_periodic_structures_are_converted_only_on_request(tmp_path: Path) -> None:
    atoms = make("H2O", 0)
    atoms.set_cell([5, 5, 5])
    atoms.pbc = (True, False, False)
    path = write_xyz(tmp_path, [atoms])
    assert "--ignore-cell" in error(tmp_path, path)[0]
    assert convert(tmp_path, path, "--ignore-cell")["003/coord"].shape == (1, 3, 3)


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    path = write_xyz(tmp_path, [Atoms("HX", [[0, 0, 0], [1, 0, 0]], info={"energy": 1.0}) for _ in range(50)])
    lines = error(tmp_path, path)
    assert lines[0] == f"{path}, frame 0: atom 1 has no element"
    assert (len(lines), lines[-1]) == (21, "and 30 more: problems of structures")


def test_two_candidates_for_a_label_are_not_guessed(tmp_path: Path) -> None:
    path = write_xyz(tmp_path, [make("H2O", 0, REF_energy=-5.0)])
    (line,) = error(tmp_path, path)
    assert line.startswith(f"{path}, frame 0: the energy may be 'REF_energy' or 'energy'; choose with --key energy=")
    assert convert(tmp_path, path, "--key", "energy=REF_energy")["003/energy"].tolist() == [-5.0]


def test_names_that_are_not_found_are_suggested(tmp_path: Path) -> None:
    path = write_xyz(tmp_path, [make("H2O", 0, energy=None, forces=None, charges=None, E0=-5.0, dft_energy=-4.0)])
    (line,) = error(tmp_path, path)
    assert line.startswith(
        "no structure has energy or forces or charges or spin_charges or dipole or quadrupole; found: E0, dft_energy, "
    )
    assert line.endswith("; give names, as in --key energy=NAME")
    (line,) = error(tmp_path, path, "--key", "energy=dft_energie")
    assert line.startswith("--key energy=dft_energie: no structure has 'dft_energie'; found: E0, dft_energy")
    assert line.endswith("Did you mean 'dft_energy'?")


def test_a_recognized_name_that_means_something_else_can_be_left_out(tmp_path: Path) -> None:
    atoms = make("H2O", 0)
    atoms.arrays["Q"] = np.zeros(3)
    path = write_xyz(tmp_path, [atoms])
    assert error(tmp_path, path) == [f"{path}, frame 0: 'Q' has shape (3,), expected ()"]
    assert "003/charge" not in convert(tmp_path, path, "--key", "charge=none")


def test_a_value_that_a_frame_gives_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text('1\nenergy=-13.1 note="energy=2 energy=3"\nH 0 0 0\n1\nenergy=-13.2 energy=-5\nH 0 0 0\n')
    assert error(tmp_path, path) == [f"{path}, frame 1: cannot be read: 'energy': given more than once"]


def test_a_result_that_differs_from_the_data_of_a_database_is_an_error(tmp_path: Path) -> None:
    path, atoms = tmp_path / "a.db", make("H2O", 0)
    same = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces().astype(np.float32)}
    with connect(path) as database:
        database.write(atoms, data={**same, "stress": 1})
    assert convert(tmp_path, path)["003/energy"].tolist() == [same["energy"]]
    (tmp_path / "out.h5").unlink()
    with connect(path) as database:
        database.write(atoms, data={**same, "energy": -1.0})
    assert error(tmp_path, path) == [f"{path}, ID 2: 'energy': given twice, with different values"]


def test_unknown_elements_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1\nenergy=-13.1\nD 0 0 0\n")
    assert error(tmp_path, path) == [f"{path}, frame 0: unknown element 'D'"]


@pytest.mark.parametrize(("suffix", "encoding"), [("xyz", "latin-1"), ("xyz", "utf-8-sig"), ("XYZ.GZ", "latin-1")])
def test_bytes_that_are_not_utf_8_do_not_matter_in_comments(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"a.{suffix}"
    text = "1\r\nenergy=-13.1 note=Überfall\r\nH 0 0 0\r\n".encode(encoding)
    path.write_bytes(gzip.compress(text) if suffix.endswith("GZ") else text)
    assert convert(tmp_path, path)["001/energy"].tolist() == [-13.1]


def test_a_file_or_option_that_is_given_twice_is_an_error(tmp_path: Path) -> None:
    path = write_xyz(tmp_path, [make("H2O", 0)])
    assert error(tmp_path, path, tmp_path / "." / path.name) == [f"given more than once: {path}"]
    result = invoke(path, "-o", tmp_path / "out.h5", "--key", "energy=E0", "--key", "energy=E1")
    assert (result.exit_code, (tmp_path / "out.h5").exists()) == (2, False)
    assert "--key is given more than once for energy" in result.output


def test_unknown_units_are_reported_before_reading(tmp_path: Path) -> None:
    (line,) = error(tmp_path, write_xyz(tmp_path, [make("H2O", 0)]), "--unit", "energy=hartee")
    assert line.startswith("--unit energy: 'hartee' is not a unit")


@pytest.mark.parametrize("name", ["a.xyz", "a.db", "a.npz", "a.traj", "a.xyz.gz"])
def test_damaged_files_are_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG" * 100)
    (line,) = error(tmp_path, tmp_path / name)
    assert str(tmp_path / name) in line


def test_other_formats_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.cif").touch()
    assert error(tmp_path, tmp_path / "a.cif") == [
        f"{tmp_path / 'a.cif'}: unknown format '.cif'; expected .xyz, .extxyz, .db, .traj, .npz or .xyz.gz"
    ]


def test_an_existing_file_is_never_replaced(tmp_path: Path) -> None:
    path = write_xyz(tmp_path, [make("H2O", 0)])
    (tmp_path / "out.h5").write_text("precious")
    with pytest.raises(DataError, match=r"out.h5 already exists; remove it or choose another name"):
        invoke(path, "-o", tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_text() == "precious"
    with pytest.raises(DataError, match="there is no folder"):
        invoke(path, "-o", tmp_path / "nowhere" / "out.h5")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write_xyz(tmp_path, [make("CH3CH2OH", seed) for seed in range(200)])
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        f"from aimnet2mult.cli import cli, run; run(cli, 'aimnet2mult', ['convert', {str(path)!r}, '-o', 'out.h5'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr.partition(": ")[0]) == (2, "error")
    assert done.stderr.startswith("error: cannot write out.h5: ")
    assert os.listdir(tmp_path) == ["a.xyz"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1\nenergy=-13.1\nH 0 0 0\n" * 2)
    script = f"""
import os
from aimnet2mult.cli import cli, run
from aimnet2mult.data.conversion import writer
def send_signal(self, structure):
    assert len(os.listdir()) == 2  # the input and the temporary file
    os.kill(os.getpid(), {int(number)})
writer.GroupWriter.add = send_signal
run(cli, "aimnet2mult", ["convert", {str(path)!r}, "-o", "out.h5"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, "")
    assert os.listdir(tmp_path) == ["a.xyz"]


def test_the_command_needs_neither_torch_nor_aimnet(tmp_path: Path) -> None:
    path = write_xyz(tmp_path, [make("H2O", 0)])
    code = f"""
import sys
for name in ("torch", "aimnet", "ignite", "tqdm"):
    sys.modules[name] = None
from aimnet2mult.cli import cli, run
run(cli, "aimnet2mult", ["convert", {str(path)!r}, "-o", "out.h5"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_bad_structures_give_exit_code_1(tmp_path: Path) -> None:
    atoms = make("H2O", 0)
    atoms.positions[1] = atoms.positions[0]
    result = invoke(write_xyz(tmp_path, [atoms]), "-o", tmp_path / "out.h5")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].endswith("convert again with --key and --unit")
    assert "group 003, row 0 (frame 0): atoms 0 and 1 are 0 Å apart" in result.output
