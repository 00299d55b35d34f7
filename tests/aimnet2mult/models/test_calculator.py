"""The ASE calculator evaluates one fidelity or all of them, with total energies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import aimnet2mult
from aimnet2mult.errors import ConfigError, DataError
from aimnet2mult.models.calculator import MixedFidelityCalculator
from aimnet2mult.models.precision import use_float64
from aimnet2mult.models.predictor import Predictor
from support.saved_models import NAMES, as_saved, build_random, describe, write_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_weights(tmp_path / "w.pt", describe())
    return tmp_path / "w.pt"


def test_all_fidelities_are_evaluated_at_once(weights: Path) -> None:
    water = molecule("H2O")
    water.info.update(charge=1, mult=2)
    found = MixedFidelityCalculator(weights, "gfn1", device="cpu").evaluate_all(water)
    assert found.keys() == set(NAMES)
    for name in NAMES:
        alone = aimnet2mult.load_model(weights, name, device="cpu")(
            [water.numbers], [water.positions], charge=1, mult=2
        )
        water.calc = MixedFidelityCalculator(weights, name, device="cpu")
        assert water.get_potential_energy() == pytest.approx(alone["energy"][0], abs=1e-5)
        assert found[name]["energy"] == pytest.approx(alone["energy"][0], abs=1e-5)
        assert found[name]["forces"] == pytest.approx(water.get_forces(), abs=1e-5)
        assert water.get_charges() == pytest.approx(alone["charges"][0], abs=1e-6)
        assert found[name]["charges"].sum() == pytest.approx(1, abs=1e-3)
        assert found[name]["spin_charges"].sum() == pytest.approx(1, abs=1e-3)
    assert found["gfn1"]["energy"] != pytest.approx(found["wb97m"]["energy"], abs=0.1)


def test_labels_that_the_data_of_a_fidelity_lacked_are_nan(tmp_path: Path) -> None:
    description = replace(describe(), absent_labels=(frozenset({"spin_charges", "forces"}), frozenset()))
    write_weights(tmp_path / "w.pt", description)
    found = MixedFidelityCalculator(tmp_path / "w.pt", "gfn1", device="cpu").evaluate_all(molecule("H2O"))
    assert np.isnan(found["gfn1"]["spin_charges"]).all()
    assert np.isfinite(found["wb97m"]["spin_charges"]).all()
    for name in NAMES:
        assert np.isfinite([found[name]["energy"], *found[name]["forces"].ravel(), *found[name]["charges"]]).all()


def test_forces_are_the_negative_gradient_of_the_energy(weights: Path) -> None:
    atoms = molecule("CH3OH")
    atoms.calc = MixedFidelityCalculator(weights, "wb97m", device="cpu")
    forces, step = atoms.get_forces(), 0.01
    for axis in range(3):
        moved = [atoms.copy(), atoms.copy()]
        for copy, sign in zip(moved, (1, -1), strict=True):
            copy.positions[1, axis] += sign * step
            copy.calc = atoms.calc
        slope = (moved[0].get_potential_energy() - moved[1].get_potential_energy()) / (2 * step)
        assert forces[1, axis] == pytest.approx(-slope, abs=5e-3 * max(1, np.abs(forces).max()))


def test_a_model_in_float64_distinguishes_coordinates_beyond_single_precision() -> None:
    description, water, shift = describe(), molecule("H2O"), 1e-9
    model = build_random(description)
    use_float64(model)
    predictor = Predictor(as_saved(description, model), "gfn1", device="cpu")
    water.positions += 1.0
    moved = water.positions.copy()
    moved[1, 2] += shift
    found = predictor([water.numbers] * 2, [water.positions, moved])
    energies = found["energy"] - predictor.reference([water.numbers] * 2)
    assert energies[1] - energies[0] == pytest.approx(-found["forces"][0, 1, 2] * shift, rel=1e-2)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_does_not_exist_is_an_error_of_the_user(weights: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"'{device}'; use cpu"):
        MixedFidelityCalculator(weights, "gfn1", device=device)


def test_a_change_of_the_charge_leads_to_a_new_calculation(weights: Path) -> None:
    water = molecule("H2O")
    water.calc = MixedFidelityCalculator(weights, "gfn1", device="cpu")
    neutral = water.get_potential_energy()
    water.info["charge"] = 1
    assert water.get_charges().sum() == pytest.approx(1, abs=1e-3)
    assert water.get_potential_energy() != neutral


def test_unknown_elements_and_periodic_structures_are_rejected(weights: Path) -> None:
    calculator = MixedFidelityCalculator(weights, "gfn1", device="cpu")
    salt = Atoms("HCl", [[0, 0, 0], [0, 0, 1.3]], calculator=calculator)
    with pytest.raises(DataError, match="gfn1 was not trained on Cl; its elements are H, C, N, O"):
        salt.get_potential_energy()
    with pytest.raises(DataError, match="gfn1 was not trained on Cl"):
        calculator.evaluate_all(salt)
    salt.calc = MixedFidelityCalculator(weights, "wb97m", device="cpu")
    assert np.isfinite(salt.get_potential_energy())
    ice = molecule("H2O", vacuum=3, pbc=True)
    ice.calc = calculator
    with pytest.raises(DataError, match="the structure is periodic"):
        ice.get_potential_energy()
