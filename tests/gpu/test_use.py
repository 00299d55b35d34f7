"""A model trained on a GPU is evaluated, loaded and exported there and on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from aimnet.calculators import AIMNet2ASE
from ase.build import molecule
from click.testing import CliRunner

import aimnet2mult
from aimnet2mult.cli import cli
from aimnet2mult.distributed.communicator import Communicator
from aimnet2mult.evaluation.evaluate import evaluate
from aimnet2mult.evaluation.request import Request
from aimnet2mult.models.calculator import MixedFidelityCalculator
from support.sample_runs import TrainedRun
from support.tiny_runs import points

pytestmark = pytest.mark.gpu

FIDELITY = "gfn1"


@pytest.mark.parametrize("where", ["here", "cpu"])
def test_an_evaluation_repeats_the_validation(run: TrainedRun, device: torch.device, where: str) -> None:
    name = device.type if where == "here" else where
    request = Request(model=run.folder, weights="last", overrides=[f"device={name}"])
    result, _ = evaluate(request, Communicator(), print)
    recorded = points(run.folder)
    expected = recorded[max(recorded)]
    for metric in ("loss", "E_rmse", "F_mae", "q_r2"):
        assert result.metrics[metric] == pytest.approx(expected[metric], rel=1e-4)


def test_predictions_are_those_of_the_cpu(run: TrainedRun, device: torch.device) -> None:
    water = molecule("H2O")
    here, cpu = (
        aimnet2mult.load_model(run.folder, FIDELITY, device=name)([water.numbers], [water.positions])
        for name in (device.type, "cpu")
    )
    assert here.keys() == cpu.keys()
    for name, array in cpu.items():
        np.testing.assert_allclose(here[name], array, rtol=1e-4, atol=1e-4)


def test_a_calculator_works_on_the_device(run: TrainedRun, device: torch.device) -> None:
    water = molecule("H2O")
    water.calc = MixedFidelityCalculator(run.folder, FIDELITY, device=device.type)
    energy, forces = water.get_potential_energy(), water.get_forces()
    water.calc = MixedFidelityCalculator(run.folder, FIDELITY, device="cpu")
    assert energy == pytest.approx(water.get_potential_energy(), abs=1e-3)
    np.testing.assert_allclose(forces, water.get_forces(), atol=1e-3)


def test_an_export_is_used_on_the_device(run: TrainedRun, device: torch.device, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    arguments = ["export", str(run.folder), str(out), "--fidelity", FIDELITY]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    water = molecule("H2O")
    water.calc = MixedFidelityCalculator(run.folder, FIDELITY, device="cpu")
    expected = water.get_potential_energy()
    from aimnet.calculators import AIMNet2Calculator

    water.calc = AIMNet2ASE(AIMNet2Calculator(str(out), device=device.type))
    assert water.get_potential_energy() == pytest.approx(expected, abs=1e-3)
