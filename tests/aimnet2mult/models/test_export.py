"""An exported fidelity predicts in aimnet's calculators what the model predicts in training."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aimnet.calculators import AIMNet2ASE, AIMNet2Calculator
from aimnet.train.export_model import export_model
from ase import Atoms
from click.testing import CliRunner

from aimnet2mult.config.schema import load
from aimnet2mult.config.yaml_text import dump
from aimnet2mult.errors import ModelError
from aimnet2mult.models.description import Description
from aimnet2mult.models.export import export_fidelity, write_export
from aimnet2mult.models.export_check import check_export
from aimnet2mult.models.predictor import Predictor
from aimnet2mult.models.saved_model import read_saved_model
from aimnet2mult.models.torchscript import export_torchscript, write_torchscript
from aimnet2mult.models.weights import save_weights
from aimnet2mult.train.checkpoint_file import write_checkpoint
from aimnet2mult.train.components import build_components
from support.saved_models import COULOMB, NAMES, as_saved, build_random, describe, randomize, write_weights
from support.small_models import definition

SAMPLE = Path(__file__).parents[3] / "aimnet2mult" / "sample"
D3 = {"s6": 1.0, "s8": 0.3908, "a1": 0.566, "a2": 3.128}
"""D3(BJ) parameters of wB97M from https://doi.org/10.1021/acs.jctc.8b00842 (supporting information)."""
VARIANTS: Mapping[str, dict[str, Any]] = {
    "separate heads": {},
    "shared heads": {"readouts": False},
    "one fidelity": {"n_fidelities": 1, "readouts": False},
    "no Coulomb": {"lrcoulomb": None},
    "a Coulomb module of another name": {
        "lrcoulomb": None,
        "electrostatics": {
            "class": "aimnet.modules.LRCoulomb",
            "kwargs": {"rc": 4.0, "key_out": "energy", "envelope": "cosine"},
        },
    },
    "dispersion": {"d3": {"class": "aimnet.modules.DFTD3", "kwargs": {k: v for k, v in D3.items() if k != "s6"}}},
}


def structures(elements: list[int], count: int = 4, seed: int = 0) -> list[Atoms]:
    """Return structures of 3 to 8 atoms with charges and multiplicities."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        n = 3 + number % 6
        grid = np.indices((2, 2, 2)).reshape(3, -1).T[:n]
        atoms = Atoms(rng.choice(elements, n), 1.5 * grid + rng.normal(0, 0.1, (n, 3)))
        atoms.info.update(charge=number % 2, mult=1 + number % 2)
        found.append(atoms)
    return found


def trained(model: Any, description: Description, fidelity: int, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Return energy and forces as the trainer's model predicts them, and add the reference energies."""
    batch = {
        "coord": torch.tensor(atoms.positions[None], dtype=torch.float32),
        "numbers": torch.tensor(atoms.numbers[None]),
        "charge": torch.tensor([float(atoms.info["charge"])]),
        "mult": torch.tensor([float(atoms.info["mult"])]),
        "fidelity": torch.tensor([fidelity]),
    }
    found = model(batch)
    energies = description.reference_energies[fidelity]
    reference = np.sum([energies[z] for z in atoms.numbers.tolist()], dtype=np.float64)
    return float(found["energy"].detach()) + float(reference), found["forces"].detach().numpy()[0]


def assert_equal_to_training(
    path: Path, model: Any, description: Description, fidelity: int, molecules: list[Atoms]
) -> None:
    calculator = AIMNet2Calculator(str(path), device="cpu")
    for atoms in molecules:
        energy, forces = trained(model, description, fidelity, atoms)
        scale = max(1.0, float(np.abs(forces).max()))
        atoms.calc = AIMNet2ASE(calculator)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=2e-4, rel=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=2e-5 * scale)
        data = {"coord": atoms.positions, "numbers": atoms.numbers, **atoms.info}
        found = calculator({key: torch.as_tensor(value) for key, value in data.items()}, forces=True)
        assert float(found["energy"].detach()) == pytest.approx(energy, abs=2e-4, rel=1e-7)
        np.testing.assert_allclose(found["forces"].detach().numpy(), forces, atol=2e-5 * scale)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_fidelity_predicts_the_same_as_in_training(tmp_path: Path, variant: str) -> None:
    description = describe(**VARIANTS[variant])
    model = write_weights(tmp_path / "w.pt", description)
    saved = read_saved_model(tmp_path / "w.pt")
    for index, name in enumerate(description.fidelity_names):
        exported = export_fidelity(saved, index)
        check_export(exported, Predictor(saved, name, "cpu"), added_d3=False)
        write_export(exported, tmp_path / "out.pt")
        molecules = structures(sorted(description.elements[index]))
        assert_equal_to_training(tmp_path / "out.pt", model, description, index, molecules)


def with_128_rows(description: Description) -> Description:
    """Return a description of a model with tables as large as those of the original trainer."""
    content = dict(description.definition)
    content["kwargs"] = {**content["kwargs"], "max_z": 128}
    return replace(description, definition=content, fidelity_offset=200)


@pytest.mark.parametrize("fidelity", [0, 1])
def test_a_model_with_tables_for_all_elements_predicts_the_same_as_in_training(tmp_path: Path, fidelity: int) -> None:
    description = with_128_rows(describe())
    model = build_random(description)
    saved = as_saved(description, model)
    export = export_fidelity(saved, fidelity)
    check_export(export, Predictor(saved, NAMES[fidelity], "cpu"), added_d3=False)
    write_export(export, tmp_path / "model.pt")
    molecules = structures(sorted(description.elements[fidelity]))
    assert_equal_to_training(tmp_path / "model.pt", model, description, fidelity, molecules)


def test_elements_beyond_aimnets_tables_are_refused() -> None:
    description = with_128_rows(describe())
    heavy = replace(
        description,
        elements=(frozenset({1, 92}), *description.elements[1:]),
        reference_energies=({1: -13.0, 92: -700.0}, *description.reference_energies[1:]),
    )
    with pytest.raises(ModelError, match="it has elements up to 63, and the model was trained on U"):
        export_fidelity(as_saved(heavy, build_random(heavy)), 0)


@pytest.mark.parametrize("fidelity", [0, 1])
def test_every_array_comes_from_the_rows_and_the_head_of_its_fidelity(fidelity: int) -> None:
    description = describe()
    model = build_random(description)
    source = {name: value.detach().numpy() for name, value in model.module.state_dict().items()}
    found = export_fidelity(as_saved(description, model), fidelity).artifact["state_dict"]

    rows = slice(100 * fidelity, 100 * fidelity + 64)
    elements = sorted(description.elements[fidelity])
    embedding = source["model.afv.weight"][rows].copy()
    embedding[0] = 0
    embedding[[z for z in range(1, 64) if z not in elements]] = np.nan
    shifts = source["model.outputs.atomic_shift.shifts.weight"][rows].astype(np.float64)
    shifts[0] = 0
    shifts[elements, 0] += [description.reference_energies[fidelity][z] for z in elements]
    head = f"model.outputs.energy_mlp.heads.{fidelity}."
    expected = {
        "afv.weight": embedding,
        "outputs.atomic_shift.shifts.weight": shifts,
        "outputs.srcoulomb.rc": np.float32(4.6),
        **{f"outputs.energy_mlp.{name.removeprefix(head)}": v for name, v in source.items() if name.startswith(head)},
        **{
            name.removeprefix("model."): value
            for name, value in source.items()
            if not name.startswith(("model.afv.", "model.outputs."))
        },
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), value, err_msg=name, strict=True)


def test_the_format_states_elements_cutoff_and_electrostatics() -> None:
    description = describe()
    artifact = export_fidelity(as_saved(description, build_random(description)), 1).artifact
    assert artifact["implemented_species"] == [1, 6, 7, 8, 17]
    assert (artifact["cutoff"], artifact["coulomb_mode"], artifact["coulomb_sr_rc"]) == (5.0, "sr_embedded", 4.6)
    assert (artifact["needs_coulomb"], artifact["needs_dispersion"], artifact["d3_params"]) == (True, False, None)


def test_dispersion_is_added_on_request(tmp_path: Path) -> None:
    description = describe(n_fidelities=1, readouts=False)
    model = write_weights(tmp_path / "w.pt", description)
    saved = read_saved_model(tmp_path / "w.pt")
    write_export(export_fidelity(saved, 0, D3), tmp_path / "d3.pt")
    atoms = structures([1, 6, 8])[3]
    energy, _ = trained(model, description, 0, atoms)
    atoms.calc = AIMNet2ASE(AIMNet2Calculator(str(tmp_path / "d3.pt"), device="cpu"))
    from dftd3.interface import DispersionModel, RationalDampingParam

    bohr, hartree = 0.529177210903, 27.211386245988
    d3 = DispersionModel(atoms.numbers, atoms.positions / bohr)
    correction = d3.get_dispersion(RationalDampingParam(**D3, s9=0.0), grad=False)["energy"] * hartree
    assert correction < -0.01
    assert atoms.get_potential_energy() - energy == pytest.approx(correction, rel=1e-3)


def test_larger_tables_are_cut_and_elements_beyond_them_refused(tmp_path: Path) -> None:
    description = describe()
    larger = {**description.definition, "kwargs": {**description.definition["kwargs"], "max_z": 100}}
    description = replace(description, definition=larger)
    model = write_weights(tmp_path / "w.pt", description)
    saved = read_saved_model(tmp_path / "w.pt")
    exported = export_fidelity(saved, 1)
    check_export(exported, Predictor(saved, "wb97m", "cpu"), added_d3=False)
    write_export(exported, tmp_path / "out.pt")
    assert_equal_to_training(tmp_path / "out.pt", model, description, 1, structures(sorted(description.elements[1])))
    heavy = replace(saved, reference_energies=({1: -13.0, 78: -100.0},) * 2, elements=(frozenset({1, 78}),) * 2)
    with pytest.raises(ModelError, match="elements up to 63, and the model was trained on Pt"):
        export_fidelity(heavy, 1)


def test_an_element_of_another_fidelity_is_rejected_by_the_calculator(tmp_path: Path) -> None:
    description = describe()
    write_weights(tmp_path / "w.pt", description)
    write_export(export_fidelity(read_saved_model(tmp_path / "w.pt"), 0), tmp_path / "out.pt")
    chlorine = Atoms("HCl", [[0, 0, 0], [0, 0, 1.3]])
    with pytest.raises(ValueError, match="species are not implemented"):
        chlorine.calc = AIMNet2ASE(AIMNet2Calculator(str(tmp_path / "out.pt"), device="cpu"))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"atomic_shift": None}, "has no aimnet.modules.AtomicShift"),
        ({"lrcoulomb": {"class": "aimnet.modules.LRCoulomb", "kwargs": {"key_out": "e_h"}}}, "key_out is 'e_h'"),
        (
            {"lrcoulomb": COULOMB, "more": {"class": "aimnet.modules.LRCoulomb", "kwargs": {"key_out": "energy"}}},
            "has several aimnet.modules",
        ),
        ({"d3bj": {"class": "aimnet.modules.AtomicSum", "kwargs": {"key_in": "a", "key_out": "b"}}}, "would replace"),
    ],
)
def test_models_that_the_format_cannot_represent_are_refused(outputs: dict[str, Any], message: str) -> None:
    description = describe()
    saved = as_saved(
        replace(description, definition=definition(**{"lrcoulomb": None, **outputs})), build_random(description)
    )
    with pytest.raises(ModelError, match=message):
        export_fidelity(saved, 0)


def test_a_fidelity_without_energies_is_refused() -> None:
    description = describe()
    saved = replace(as_saved(description, build_random(description)), reference_energies=({1: -13.0}, {}))
    with pytest.raises(ModelError, match="the fidelity wb97m was trained without energies"):
        export_fidelity(saved, 1)


def test_an_export_that_predicts_something_else_is_refused() -> None:
    description = describe()
    saved = as_saved(description, build_random(description))
    with pytest.raises(
        ModelError, match=r"is wrong and is not written: for a structure of \d+ atoms, its energy differs"
    ):
        check_export(export_fidelity(saved, 0), Predictor(saved, NAMES[1], "cpu"), added_d3=False)


def test_torchscript_predicts_the_same_for_any_number_of_atoms(tmp_path: Path) -> None:
    description = describe()
    model = write_weights(tmp_path / "w.pt", description)
    predictor = Predictor(read_saved_model(tmp_path / "w.pt"), "wb97m", "cpu")
    write_torchscript(export_torchscript(predictor), tmp_path / "fid1.jpt")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        loaded = torch.jit.load(tmp_path / "fid1.jpt")
    assert loaded.cutoff == 5.0
    for atoms in structures([1, 6, 7, 8, 17], 6):
        energy, forces = trained(model, description, 1, atoms)
        # As the original's calculator does it.
        coord = torch.tensor(atoms.positions[None], dtype=torch.float32, requires_grad=True)
        data = {"coord": coord, "numbers": torch.tensor(atoms.numbers[None])}
        data |= {key: torch.tensor([float(atoms.info[key])]) for key in ("charge", "mult")}
        found = loaded(data)["energy"].sum()
        (gradient,) = torch.autograd.grad(found, coord)
        assert float(found.detach()) == pytest.approx(energy, abs=1e-5, rel=1e-8)
        np.testing.assert_allclose(-gradient[0].numpy(), forces, atol=1e-5 * max(1, np.abs(forces).max()))
    data["numbers"] = data["numbers"].clone()
    data["numbers"][0, -1] = 0
    with pytest.raises(torch.jit.Error, match="isolated structures of equal size"):
        loaded(data)


# ---------------------------------------------------------------- other programs on our files


@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_aimnet_export_fails_on_weight_files_and_checkpoints(tmp_path: Path, kind: str) -> None:
    description = describe()
    file = tmp_path / "step-00000001.pt"
    model = write_weights(file, description)
    if kind == "checkpoint":
        write_checkpoint(file, {"model": model}, {}, description)
    (tmp_path / "model.yaml").write_text(dump(description.definition))
    (tmp_path / "energies.sae").write_text(dump(dict(description.reference_energies[0])))
    given = [str(file), str(tmp_path / "out.pt"), "--model", str(tmp_path / "model.yaml")]
    done = CliRunner().invoke(export_model, [*given, "--sae", str(tmp_path / "energies.sae")])
    assert done.exit_code != 0
    assert not (tmp_path / "out.pt").exists()
    # The original's compile_jit and trainer look for a dictionary, and otherwise for a module.
    content = torch.load(file, weights_only=False)
    assert not isinstance(content, Mapping)
    assert not hasattr(content, "state_dict")
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like"):
        model.load_state_dict(content, strict=False)


# ---------------------------------------------------------------- sample data


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", [0, 1])
def test_one_hundred_validation_structures_are_predicted_as_in_training(tmp_path: Path, fidelity: int) -> None:
    config = load([SAMPLE / "train.yaml"], ["use_fidelity_readouts=true"])
    components = build_components(config, definition(lrcoulomb=COULOMB), tmp_path)
    model = randomize(components.model)
    save_weights(model, components.description, tmp_path / "w.pt")
    exported = export_fidelity(read_saved_model(tmp_path / "w.pt"), fidelity)
    write_export(exported, tmp_path / "out.pt")
    molecules = []
    for group in components.data.val.groups:
        for row in np.flatnonzero(group["fidelity"] == fidelity)[:20]:
            real = group["numbers"][row] > 0
            atoms = Atoms(group["numbers"][row][real], group["coord"][row][real])
            atoms.info.update(charge=float(group["charge"][row]), mult=float(group["mult"][row]))
            molecules.append(atoms)
    assert len(molecules) >= 100
    assert_equal_to_training(tmp_path / "out.pt", model, components.description, fidelity, molecules[:100])
