"""Units and precision of labels are recognized, without false alarms."""

import tempfile
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import h5py
import numpy as np
import pytest

from aimnet2mult.data.checks import check_files
from aimnet2mult.data.compositions import Compositions
from aimnet2mult.data.content_scan import ContentScan
from aimnet2mult.data.label_summary import summarize
from aimnet2mult.data.unit_hints import find_energy_unit, find_precision_loss
from support.labels import built_in
from support.whole_files import read_fidelity

Group = dict[str, np.ndarray]

HARTREE, BOHR, KCAL = 27.211386, 0.529177, 0.0433641  # eV, Å, eV

# Exact nonrelativistic energies of free atoms: S. J. Chakravorty et al., Phys. Rev. A 47, 3649 (1993); hartree.
ATOMS = {1: -0.5, 5: -24.654, 6: -37.845, 7: -54.589, 8: -75.067, 9: -99.734, 15: -341.26, 16: -398.11, 17: -460.15}
# Per atom, roughly as GFN2-xTB, and as GTH pseudopotentials; hartree.
SEMIEMPIRICAL = {1: -0.39, 6: -1.79, 7: -2.60, 8: -3.77, 9: -4.62, 16: -3.15, 17: -4.48}
PSEUDOPOTENTIAL = {1: -0.5, 6: -5.4, 7: -9.8, 8: -15.9, 9: -24.2, 16: -10.1, 17: -15.0}
# Roughly the energy of a bond, in eV per atom, and typical organic molecules.
BINDING = -3.5
MOLECULES = [[6, 1, 1, 1, 1], [8, 1, 1], [7, 1, 1, 1], [6, 6, 1, 1, 1, 1, 8, 1, 1], [6, 8], [6, 7, 8, 1, 1, 1]]


def vibrations(
    molecules: Iterable[list[int]] = MOLECULES,
    *,
    atoms: dict[int, float] = ATOMS,
    energy_unit: float = 1.0,
    force_unit: float = 1.0,
    structures: int = 60,
) -> list[Group]:
    """Return molecules with random anharmonic vibrations; energies and forces are consistent.

    ``atoms`` are the energies of the atoms in hartree; without any, formation energies are returned. The units are
    those of the returned values, in eV and eV/Å.
    """
    rng = np.random.default_rng(3)
    groups = []
    for numbers in molecules:
        size = len(numbers)
        modes = rng.normal(size=(3 * size, 3 * size))
        stiffness = 20 * modes @ modes.T / (3 * size)
        displacement = rng.normal(0, 0.05, (structures, 3 * size))
        square = np.einsum("bi,ij,bj->b", displacement, stiffness, displacement)
        total = sum(atoms[z] for z in numbers) * HARTREE if atoms else 0.0
        energy = total + BINDING * size + square / 2 + square**2 / 200
        gradient = displacement @ stiffness * (1 + square / 50)[:, None]
        groups.append(
            {
                "numbers": np.tile(numbers, (structures, 1)),
                "coord": rng.normal(0, 2, (size, 3)) + displacement.reshape(structures, size, 3),
                "energy": energy / energy_unit,
                "forces": -gradient.reshape(structures, size, 3) / force_unit,
            }
        )
    return groups


def hints_of(groups: list[Group]) -> list[str]:
    """Return the warnings of units when a file with these groups is checked."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        with h5py.File(path, "w") as file:
            for group in groups:
                for key, array in group.items():
                    file[f"{group['numbers'].shape[1]:03d}/{key}"] = array
        report = check_files([path], labels=built_in("energy", "forces"), min_distance=0)
        assert report.ok
        lines = [line.removeprefix(f"{path}: ") for line in report.warnings.lines()]
        return [line for line in lines if "outlier" not in line and "structure" not in line]


@pytest.mark.parametrize("atoms", [ATOMS, SEMIEMPIRICAL, PSEUDOPOTENTIAL, {}], ids=["all", "xtb", "gth", "formation"])
@pytest.mark.parametrize(
    "molecules",
    [MOLECULES, [[8, 1, 1]], [[8, 1, 1], [8, 1, 1, 8, 1, 1]], [[6, 9, 9, 9, 9]], [[6, 17, 17, 17, 1]], [[16, 8, 8]]],
    ids=["organic", "water", "water dimer", "CF4", "CHCl3", "SO2"],
)
def test_energies_in_ev_give_no_hint(atoms: dict[int, float], molecules: list[list[int]]) -> None:
    assert hints_of(vibrations(molecules, atoms=atoms)) == []
    without_forces = [{k: v for k, v in g.items() if k != "forces"} for g in vibrations(molecules, atoms=atoms)]
    assert hints_of(without_forces) == []


@pytest.mark.parametrize("molecules", [MOLECULES, [[8, 1, 1]]], ids=["organic", "water"])
@pytest.mark.parametrize(("name", "unit"), [("Hartree", HARTREE), ("kcal/mol", KCAL), ("kJ/mol", KCAL / 4.184)])
def test_total_energies_in_another_unit_are_recognized(molecules: list[list[int]], name: str, unit: float) -> None:
    groups = [{k: v for k, v in g.items() if k != "forces"} for g in vibrations(molecules, energy_unit=unit)]
    assert hints_of(groups) == [f"the energies look like {name} instead of eV; set data.units.energy={name}"]


@pytest.mark.parametrize("atoms", [ATOMS, {}], ids=["total", "formation"])
@pytest.mark.parametrize(
    ("energy", "forces", "energy_unit", "force_unit"),
    [
        ("Hartree", None, HARTREE, 1.0),
        ("Hartree", "Hartree/Bohr", HARTREE, HARTREE / BOHR),
        (None, "Hartree/Bohr", 1.0, HARTREE / BOHR),
        (None, "kcal/mol/Å", 1.0, KCAL),
        ("kcal/mol", None, KCAL, 1.0),
    ],
)
def test_energies_and_forces_in_different_units_are_recognized(
    atoms: dict[int, float], energy: str | None, forces: str | None, energy_unit: float, force_unit: float
) -> None:
    expected = []
    if energy:
        expected.append(f"the energies look like {energy} instead of eV; set data.units.energy={energy}")
    if forces:
        expected.append(f"the forces look like {forces} instead of eV/Å; set data.units.forces={forces}")
    assert hints_of(vibrations(atoms=atoms, energy_unit=energy_unit, force_unit=force_unit)) == expected


def waters(**units: float) -> Group:
    """Return vibrations of water with its usual distances."""
    (group,) = vibrations([[8, 1, 1]], **units)
    shape = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    return group | {"coord": group["coord"] - group["coord"].mean(axis=0) + shape}


@pytest.mark.parametrize(("name", "factor"), [("bohr", BOHR), ("pm", 0.01)])
def test_coordinates_in_another_unit_are_recognized(name: str, factor: float) -> None:
    group = waters()
    assert hints_of([group]) == []
    hint = f"the coordinates look like {name} instead of Å; set data.units.coord={name}"
    assert hints_of([group | {"coord": group["coord"] / factor}]) == [hint]


def test_atomic_units_throughout_are_recognized() -> None:
    group = waters(energy_unit=HARTREE, force_unit=HARTREE / BOHR)
    assert hints_of([group | {"coord": group["coord"] / BOHR}]) == [
        "the energies look like Hartree instead of eV; set data.units.energy=Hartree",
        "the forces look like Hartree/Bohr instead of eV/Å; set data.units.forces=Hartree/Bohr",
        "the coordinates look like bohr instead of Å; set data.units.coord=bohr",
    ]


def test_missing_energies_do_not_silence_the_hints() -> None:
    groups = vibrations(atoms={}, energy_unit=HARTREE)
    complete = hints_of(groups)
    assert complete
    for group in groups:
        group["energy"][::3] = np.nan
    assert hints_of(groups) == complete


def test_total_energies_of_helium_say_nothing_about_the_unit() -> None:
    """The estimate is good from boron on; here it happens to agree."""
    for z, unit in ((2, None), (6, "eV")):
        estimate = HARTREE * (-0.768745 * z ** (7 / 3) + z**2 / 2 - 0.269900 * z ** (5 / 3))
        assert find_energy_unit(Compositions.of([np.array([[z]])]), np.array([estimate])) == unit


def test_large_forces_are_recognized_without_energies() -> None:
    groups = [{k: v for k, v in g.items() if k != "energy"} for g in vibrations(force_unit=KCAL)]
    (hint,) = hints_of(groups)
    assert hint == "the forces look like kcal/mol/Å instead of eV/Å; set data.units.forces=kcal/mol/Å"


def test_total_energies_in_hartree_cast_doubt_on_unrelated_forces() -> None:
    groups = vibrations(energy_unit=HARTREE)
    for group in groups:
        group["forces"] = np.random.default_rng(0).normal(size=group["forces"].shape)
    (hint,) = hints_of(groups)
    assert hint.endswith("set data.units.energy=Hartree, and check the unit of the forces")


def test_gradients_instead_of_forces_are_recognized() -> None:
    groups = vibrations()
    for group in groups:
        group["forces"] *= -1
    (hint,) = hints_of(groups)
    assert hint.startswith("energy differences are -0.99")
    assert "check their sign and data.units" in hint


def test_labels_without_any_relation_give_no_hint() -> None:
    rng = np.random.default_rng(0)
    numbers = np.tile([8, 1, 1], (300, 1))
    group = {"numbers": numbers, "coord": rng.normal(size=(300, 3, 3)), "forces": rng.normal(0, 0.1, (300, 3, 3))}
    assert hints_of([group | {"energy": rng.normal(0, 0.1, 300)}]) == []


def test_a_few_absurd_labels_do_not_change_the_hints() -> None:
    groups = vibrations()
    groups[0]["forces"][0] = 1e6
    groups[1]["energy"][1] += 1e4
    groups[2]["forces"][2] = np.nan
    groups[3]["coord"][3] = groups[3]["coord"][4]
    assert hints_of(groups) == []


def sample(energy_unit: float, force_unit: float) -> list[Group]:
    with h5py.File(str(files("aimnet2mult") / "sample" / "gfn1.h5")) as file:
        groups = [
            {key: group[key][()] for key in ("numbers", "coord", "charge", "mult", "energy", "forces")}
            for group in file.values()
        ]
    for group in groups:
        group["energy"] /= energy_unit
        group["forces"] /= force_unit
    return groups


@pytest.mark.parametrize(
    ("energy_unit", "force_unit", "names"),
    [
        (1.0, 1.0, []),
        (HARTREE, 1.0, ["Hartree"]),
        (HARTREE, HARTREE / BOHR, ["Hartree", "Hartree/Bohr"]),
        (KCAL, KCAL, ["kcal/mol", "kcal/mol/Å"]),
    ],
)
def test_units_of_the_sample_data_are_recognized(energy_unit: float, force_unit: float, names: list[str]) -> None:
    hints = hints_of(sample(energy_unit, force_unit))
    assert [hint.rpartition("=")[2] for hint in hints] == names


def test_the_summary_agrees_with_a_calculation_by_hand() -> None:
    group = {
        "numbers": np.array([[8, 1, 1, 0], [8, 1, 1, 0], [8, 1, 0, 0], [6, 1, 1, 1]]),
        "energy": np.array([0.3, -0.9, 0.5, np.nan]),
        "coord": np.zeros((4, 4, 3)),
        "forces": np.zeros((4, 4, 3)),
    }
    group["forces"][0, :3] = 3.0
    group["forces"][0, 3] = 1e9
    group["forces"][3] = np.nan
    # Forces: 9 of 3 + 3 + 2 atoms' 24 components are 3. Energies: the mean of water is -0.3, that of OH 0.5.
    scan = ContentScan(())
    scan.start("004", 4, 4)
    scan.add(0, group, np.zeros(4, np.bool_))
    content = scan.finish()
    assert summarize([(content, True, content.good)], {1: 0.0, 6: 0.0, 8: 0.0}).text == (
        "energies less references -0.3 to 0.25 eV/atom, rms 0.619 eV (worst: 1 x HO, mean 0.5 eV); forces rms 1.84 eV/Å"
    )


@pytest.mark.parametrize(
    ("typical", "unit", "spacing"),
    [
        (-1e5, 1.0, "0.18"),
        (-4e4, 1.0, "0.09"),
        (-3e4, 1.0, None),
        (-3700.0, HARTREE, "0.15"),
        (-1500.0, HARTREE, "0.077"),
    ],
)
def test_energies_in_float32_are_reported_if_the_spacing_matters(
    typical: float, unit: float, spacing: str | None
) -> None:
    stored = np.random.default_rng(0).normal(typical, 1.0, 100).astype(np.float32)
    for array in (stored, stored.astype(np.float64)):
        warning = find_precision_loss([array, np.full(3, np.nan)], unit / KCAL)
        if spacing is None:
            assert warning is None
        else:
            assert warning is not None
            assert f"successive values differ by {spacing} kcal/mol; store them as float64" in warning


def test_energies_in_float16_are_reported() -> None:
    stored = np.random.default_rng(0).normal(-2056, 2.0, 100).astype(np.float16)
    warning = find_precision_loss([stored])
    assert warning is not None
    assert "only float16 precision: near -2,056, successive values differ by 46 kcal/mol" in warning


@pytest.mark.parametrize(
    "array", [np.random.default_rng(0).normal(-1e5, 1, 50), np.full(3, np.nan), np.array([-100_000]), np.zeros(0)]
)
def test_other_energies_are_not_reported(array: np.ndarray) -> None:
    assert find_precision_loss([array]) is None
    assert find_precision_loss([]) is None


def test_reading_warns_of_energies_stored_as_float32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["003/numbers"] = np.tile([8, 1, 1], (5, 1))
        file["003/coord"] = np.eye(3) + np.arange(5)[:, None, None]
        file["003/energy"] = np.full(5, -103_000.123, np.float32)
    read_fidelity(path, labels=built_in("energy"))
    (message,) = caplog.messages
    assert message.startswith(f"{path}: the energies have only float32 precision: near -103,000, ")
