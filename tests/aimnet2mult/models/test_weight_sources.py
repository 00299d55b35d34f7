"""Weights in every format predict the energies of their source after they were loaded: no key may be misnamed."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from aimnet.calculators import AIMNet2Calculator
from torch import Tensor, nn

from aimnet2mult.data.reference_energies import Sae
from aimnet2mult.errors import ConfigError
from aimnet2mult.models.build import build_model
from aimnet2mult.models.initial_weights import InitialWeights, load_weights
from aimnet2mult.models.loaded_definition import read_loaded_definition
from aimnet2mult.models.source_energies import source_energies
from support.labels import built_in
from support.published import SPECIES, long_range, random_model, with_energies_of_atoms, write_aimnet, write_script

MOLECULE = {
    "coord": torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.1, 1.0], [0.0, 1.1, 0.0], [1.1, 0.9, 0.2]]]),
    "numbers": torch.tensor([[8, 1, 6, 7]]),
    "charge": torch.ones(1),
    "mult": torch.ones(1),
}
CONSTANTS = ("aev.", "outputs.lrcoulomb.", "outputs.srcoulomb.", "outputs.dftd3.")
"""Arrays whose values are part of the definition."""


def mixed(seed: int = 1) -> Any:
    """Build a model of two fidelities."""
    torch.manual_seed(seed)
    return build_model(
        copy.deepcopy(long_range()), labels=built_in("energy"), n_fidelities=2, use_fidelity_readouts=True
    ).eval()


def total(model: nn.Module, loaded: InitialWeights, fidelity: int = 0) -> float:
    with torch.no_grad():
        energy = float(model({**MOLECULE, "fidelity": torch.tensor([fidelity])})["energy"])
    return energy + reference(loaded.source.reference_energies[loaded.origins[fidelity].index])


def reference(energies: Sae) -> float:
    return sum(energies.get(z, 0.0) for z in MOLECULE["numbers"].flatten().tolist())


def calculated(path: Path) -> float:
    return float(AIMNet2Calculator(str(path), device="cpu")(dict(MOLECULE))["energy"])


def perturbed(state: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each trained array by name, and the weights in which it is different."""
    for name, array in state.items():
        if not name.startswith(CONSTANTS):
            changed = array + 0.2 * torch.rand_like(array)
            if name.endswith(("afv.weight", "shifts.weight")):
                # The row of padding.
                changed[0] = 0
            yield name, {**state, name: changed}


def test_a_file_of_aimnet_predicts_what_its_calculator_does(tmp_path: Path) -> None:
    path, model = write_aimnet(tmp_path), mixed()
    loaded = load_weights(model, path, ["wb97m", "other"])
    assert total(model, loaded) == pytest.approx(calculated(path), abs=1e-5)
    assert total(model, loaded, fidelity=1) == pytest.approx(calculated(path), abs=1e-5)
    assert source_energies(loaded.source, 0, [MOLECULE], {}) == [pytest.approx(calculated(path), abs=1e-9)]
    assert "wb97m continues fid0; other initialized from fid0" in loaded.summary
    assert loaded.reference_energies.keys() == {0}
    assert not loaded.missing
    assert "not used" not in loaded.summary


def test_energies_follow_every_array_in_a_file_of_aimnet(tmp_path: Path) -> None:
    path = write_aimnet(tmp_path)
    content = torch.load(path, weights_only=True)
    before, model, changed = calculated(path), mixed(), tmp_path / "changed.pt"
    for name, state in perturbed(content["state_dict"]):
        torch.save({**content, "state_dict": state}, changed)
        expected = calculated(changed)
        assert abs(expected - before) > 1e-4, name
        assert total(model, load_weights(model, changed)) == pytest.approx(expected, abs=1e-5), name


def test_energies_of_atoms_in_an_aimnet_file_become_reference_energies_in_double_precision(tmp_path: Path) -> None:
    path, model = write_aimnet(tmp_path), mixed()
    shifts = torch.load(path, weights_only=True)["state_dict"]["outputs.atomic_shift.shifts.weight"].flatten()
    loaded = load_weights(model, path)
    assert loaded.reference_energies[0] == {z: float(shifts[z]) for z in SPECIES}
    table = model.model.outputs.atomic_shift.shifts.weight
    assert table.dtype == torch.float32
    assert not table[:64].any()
    assert "its atomic shifts, which include the energies of atoms, became reference energies" in loaded.summary


def test_unsupported_elements_keep_finite_initial_values_and_are_named(tmp_path: Path) -> None:
    path, model = write_aimnet(tmp_path), mixed()
    before = model.model.afv.weight.detach().clone()
    loaded = load_weights(model, path)
    assert "with parameters for H, C, N, O only; no other element can be trained" in loaded.summary
    assert loaded.unsupported == (frozenset(range(1, 64)) - SPECIES.keys(),) * 2
    table = model.model.afv.weight.detach()
    assert table.isfinite().all()
    assert torch.equal(table[9:64], before[9:64])
    assert not torch.equal(table[8], before[8])


def test_a_few_unsupported_elements_are_listed(tmp_path: Path) -> None:
    state = random_model(long_range()).state_dict()
    state["afv.weight"][[9, 17]] = torch.nan
    torch.save(state, tmp_path / "w.pt")
    assert "without parameters for F, Cl, which cannot be trained" in load_weights(mixed(), tmp_path / "w.pt").summary


@pytest.mark.parametrize("array", ["afv.weight", "conv_a.agh"])
def test_other_values_that_are_not_finite_are_refused(tmp_path: Path, array: str) -> None:
    state = random_model(long_range()).state_dict()
    state[array].view(-1)[20] = torch.nan
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=f"{array} is complex or not finite"):
        load_weights(mixed(), tmp_path / "w.pt")


Wrap = Callable[[dict[str, Tensor]], dict[str, Tensor]]
ARCHIVES: dict[str, tuple[Wrap, str]] = {
    "model": (lambda state: state, "; a TorchScript archive, whose code was not executed"),
    "with forces": (
        lambda state: {f"module.{name}": array for name, array in state.items()},
        "; a TorchScript archive",
    ),
    "ensemble": (
        lambda state: {
            **{f"models.0.module.{name}": array for name, array in state.items()},
            **{f"models.1.module.{name}": array + 1 for name, array in state.items()},
        },
        "; the first of 2 models in a TorchScript archive",
    ),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_energies_follow_every_array_in_a_torchscript_archive(tmp_path: Path, kind: str) -> None:
    wrap, note = ARCHIVES[kind]
    source = random_model(long_range())
    # The tables of published archives have other names and shapes.
    state = {name: array for name, array in source.state_dict().items() if not name.startswith("outputs.dftd3.")}
    state["outputs.d3bj.c6ab"] = torch.zeros(3, 3)
    model = mixed()
    for name, changed in [("nothing", state), *perturbed(state)] if kind == "model" else [("nothing", state)]:
        source.load_state_dict(changed, strict=False)
        with torch.no_grad():
            expected = float(source(dict(MOLECULE))["energy"]) + reference(SPECIES)
        path = write_script(tmp_path / "model.jpt", wrap(with_energies_of_atoms(changed)))
        loaded = load_weights(model, path)
        # The energies of atoms are in float32 in the archive.
        assert total(model, loaded) == pytest.approx(expected, abs=2e-3 if name.endswith("shifts.weight") else 1e-3)
        assert note in loaded.summary
        assert loaded.unsupported[0] == frozenset(range(1, 64)) - SPECIES.keys()


def test_an_archive_of_compile_jit_states_the_reference_energies_at_shifted_atomic_numbers(tmp_path: Path) -> None:
    source = random_model(long_range())
    for level, start in ((0, 0), (2, 400)):
        table = torch.zeros(max(119, (level + 1) * 200 + 118))
        for z, energy in SPECIES.items():
            table[start + z] = energy
        arrays = {f"model.{name}": array for name, array in source.state_dict().items()}
        path = write_script(tmp_path / "fid.jpt", {**arrays, "sae_tensor": table})
        model = random_model(long_range(), seed=3)
        loaded = load_weights(model, path, offset=200)
        assert loaded.reference_energies[0] == {z: pytest.approx(energy) for z, energy in SPECIES.items()}
        with torch.no_grad():
            energies = [float(one(dict(MOLECULE))["energy"]) for one in (model, source)]
        assert energies[0] == pytest.approx(energies[1], abs=1e-5)


def test_a_state_dict_that_includes_energies_of_atoms_is_recognized(tmp_path: Path) -> None:
    state = random_model(long_range()).state_dict()
    for which in (
        with_energies_of_atoms(state),
        {**state, "outputs.atomic_shift.shifts.weight": torch.rand(64, 1).double()},
    ):
        torch.save(which, tmp_path / "w.pt")
        model = mixed()
        assert 6 in load_weights(model, tmp_path / "w.pt").reference_energies[0]
        assert not model.model.outputs.atomic_shift.shifts.weight.any()
    torch.save(state, tmp_path / "w.pt")
    assert not load_weights(mixed(), tmp_path / "w.pt").reference_energies


def test_the_definition_in_a_file_of_aimnet_gets_its_long_range_modules_back(tmp_path: Path) -> None:
    found = read_loaded_definition(write_aimnet(tmp_path))
    assert found is not None
    outputs = found["kwargs"]["outputs"]
    assert outputs["lrcoulomb"]["class"] == "aimnet.modules.LRCoulomb"
    assert outputs["lrcoulomb"]["kwargs"]["rc"] == pytest.approx(4.1)
    assert outputs["dftd3"]["kwargs"] == {"s6": 1.0, "s8": 0.3908, "a1": 0.566, "a2": 3.128}
    assert "srcoulomb" not in outputs
    model = random_model(found, seed=7)
    assert total(model, load_weights(model, tmp_path / "v2.pt")) == pytest.approx(
        calculated(tmp_path / "v2.pt"), abs=1e-5
    )
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    assert read_loaded_definition(tmp_path / "plain.pt") is None
