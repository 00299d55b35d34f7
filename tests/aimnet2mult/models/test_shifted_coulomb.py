"""Damped shifted-force Coulomb energies: as defined, with forces that are their derivative, also when exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aimnet.calculators import AIMNet2Calculator
from scipy.special import erfc

from aimnet2mult.models.export import export_fidelity, write_export
from aimnet2mult.models.export_check import calculator_settings, check_export
from aimnet2mult.models.predictor import Predictor
from support.saved_models import COULOMB, as_saved, build_random, describe

ALPHA, RADIUS = 0.3, 4.0
COULOMB_CONSTANT = 14.399645478  # eV Å, CODATA 2018
DSF = {
    **COULOMB,
    "kwargs": {**COULOMB["kwargs"], "method": "dsf", "dsf_alpha": ALPHA, "dsf_rc": RADIUS, "subtract_sr": False},
}
COORD = 1.5 * np.indices((2, 2, 2)).reshape(3, -1).T[:7] + np.random.default_rng(1).normal(0, 0.1, (7, 3))
NUMBERS = np.array([8, 1, 6, 7, 1, 6, 8])


def batch(coord: Any, padding: int = 0) -> dict[str, torch.Tensor]:
    return {
        "coord": torch.tensor(np.pad(coord, ((0, padding), (0, 0)))[None], dtype=torch.float32),
        "numbers": torch.tensor(np.pad(NUMBERS, (0, padding))[None]),
        "charge": torch.tensor([1.0]),
        "mult": torch.tensor([2.0]),
        "fidelity": torch.tensor([1]),
    }


def shifted_force(charges: Any, coord: Any) -> float:
    """Return the energy in eV after Fennell and Gezelter, https://doi.org/10.1063/1.2206581, eq. 19 and self-energy."""
    at_radius = erfc(ALPHA * RADIUS) / RADIUS
    slope = at_radius / RADIUS + 2 * ALPHA / np.sqrt(np.pi) * np.exp(-((ALPHA * RADIUS) ** 2)) / RADIUS
    energy = -(at_radius / 2 + ALPHA / np.sqrt(np.pi)) * np.sum(charges**2)
    for i in range(len(charges)):
        for j in range(i):
            r = np.linalg.norm(coord[i] - coord[j])
            if r < RADIUS:
                energy += charges[i] * charges[j] * (erfc(ALPHA * r) / r - at_radius + slope * (r - RADIUS))
    return float(COULOMB_CONSTANT * energy)


@pytest.mark.parametrize("padding", [0, 2])
def test_the_energy_is_the_shifted_force_sum(padding: int) -> None:
    description = describe(lrcoulomb=DSF)
    model = build_random(description)
    without = build_random(describe(lrcoulomb=None))
    without.module.load_state_dict(model.module.state_dict(), strict=False)
    found, rest = model(batch(COORD, padding)), without(batch(COORD, padding))
    charges = found["charges"][0, : len(NUMBERS)].detach().double().numpy()
    difference = float(found["energy"].detach()) - float(rest["energy"].detach())
    assert difference == pytest.approx(shifted_force(charges, COORD), abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_forces_are_the_derivative_of_the_energy(*, training: bool) -> None:
    model = build_random(describe(lrcoulomb=DSF)).train(training)
    forces = model(batch(COORD))["forces"][0].detach().numpy()
    step = 2e-3
    expected = np.zeros_like(COORD)
    for index in np.ndindex(COORD.shape):
        shift = np.zeros_like(COORD)
        shift[index] = step
        ahead, behind = (float(model(batch(COORD + sign * shift))["energy"].detach()) for sign in (1, -1))
        expected[index] = (behind - ahead) / (2 * step)
    np.testing.assert_allclose(forces, expected, atol=1e-2)


def test_an_exported_model_predicts_the_same_with_the_method_set(tmp_path: Path) -> None:
    outputs = {**DSF, "kwargs": {**DSF["kwargs"], "subtract_sr": True}}
    description = describe(lrcoulomb=outputs)
    model = build_random(description)
    saved = replace(as_saved(description, model), source=tmp_path / "w.pt")
    exported = export_fidelity(saved, 1)
    check_export(exported, Predictor(saved, "wb97m", "cpu"), added_d3=False)
    write_export(exported, tmp_path / "out.pt")
    calculator = AIMNet2Calculator(str(tmp_path / "out.pt"), device="cpu")
    for method, arguments in calculator_settings(exported):
        getattr(calculator, method)(**arguments)
    data = {"coord": torch.tensor(COORD[None]), "numbers": torch.tensor(NUMBERS[None])}
    found = calculator({**data, "charge": torch.tensor([1.0]), "mult": torch.tensor([2.0])}, forces=True)
    own = model(batch(COORD))
    reference = sum(description.reference_energies[1][z] for z in NUMBERS.tolist())
    assert float(found["energy"].detach()) - reference == pytest.approx(float(own["energy"].detach()), abs=1e-4)
    np.testing.assert_allclose(found["forces"].detach(), own["forces"].detach(), atol=1e-4)
