"""Weights for other fidelities, and of the original trainer, predict the same in another model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from aimnet.models import AIMNet2
from torch import Tensor, nn

from aimnet2mult.errors import ConfigError
from aimnet2mult.models.build import build_model
from aimnet2mult.models.definition import read_definition
from aimnet2mult.models.description import Description
from aimnet2mult.models.initial_weights import load_weights
from aimnet2mult.models.mixed_fidelity import MixedFidelity
from aimnet2mult.models.weight_transfer import match_fidelities
from aimnet2mult.models.weights import save_weights
from support.labels import built_in

State = dict[str, Tensor]

MODEL = Path(__file__).parents[1] / "config" / "legacy" / "original" / "model.yaml"
OFFSET = 200


def build(fidelities: int, *, seed: int, readouts: bool = True, offset: int = OFFSET, rows: int = 64) -> Any:
    torch.manual_seed(seed)
    definition = read_definition(MODEL)
    # As in aimnet; the tables of the original have 128 rows.
    definition["kwargs"]["max_z"] = rows
    model = build_model(
        definition,
        labels=built_in("energy", "charges"),
        n_fidelities=fidelities,
        fidelity_offset=offset,
        use_fidelity_readouts=readouts,
    )
    for parameter in model.parameters():
        # Initially all fidelities are equal.
        parameter.data += 0.1 * torch.randn_like(parameter) if parameter.requires_grad else 0
    return model.eval()


def energies(model: nn.Module, fidelity: int) -> Tensor:
    data = {
        "coord": torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.1, 0.0]]]),
        "numbers": torch.tensor([[8, 1, 6]]),
        "charge": torch.zeros(1),
        "mult": torch.ones(1),
        "fidelity": torch.tensor([fidelity]),
    }
    with torch.no_grad():
        energy: Tensor = model(data)["energy"]
    return energy


def as_original(model: MixedFidelity, *, rows: int) -> State:
    """Return a state dict as the original trainer has it: a readout and a table of shifts per fidelity."""
    state: State = {}
    for name, value in model.state_dict().items():
        words = name.removeprefix("model.").split(".")
        if words[0] != "outputs":
            state[".".join(words)] = value
        elif "heads" in words:
            state[".".join(["fidelity_readouts", words[3], words[1], *words[4:]])] = value
    table = model.model.outputs.atomic_shift.shifts.weight.detach()  # type: ignore[union-attr]
    for fidelity in range(model.n_fidelities):
        own = torch.zeros(rows, 1)
        part = table[fidelity * OFFSET : fidelity * OFFSET + 64]
        own[fidelity * OFFSET : fidelity * OFFSET + 64] = part
        state[f"fidelity_readouts.{fidelity}.atomic_shift.shifts.weight"] = own
        # Untrained copies.
        state[f"shared_readout.energy_mlp.mlp.0.weight{fidelity}"] = torch.zeros(1)
        state["outputs.atomic_shift.shifts.weight"] = torch.zeros(128, 1)
    # The versions with larger tables have it in each readout.
    coulomb = "shared_readouts" if rows < 2 * OFFSET else "fidelity_readouts.0"
    state[f"{coulomb}.lrcoulomb.rc"] = torch.tensor(4.6)
    afv = torch.randn(rows, state["afv.weight"].shape[1])
    for fidelity in range(model.n_fidelities):
        start = fidelity * OFFSET
        afv[start : start + 64] = state["afv.weight"][start : start + 64]
    state["afv.weight"] = afv
    return state


@pytest.mark.parametrize("rows", [OFFSET + 129, 2 * OFFSET + 129])
@pytest.mark.parametrize("bare", [True, False])
def test_weights_of_the_original_trainer_predict_the_same(tmp_path: Path, rows: int, *, bare: bool) -> None:
    trained, model = build(2, seed=0), build(2, seed=1)
    state = as_original(trained, rows=rows)
    torch.save(state if bare else {"model": state}, tmp_path / "w.pt")
    line = load_weights(model, tmp_path / "w.pt").summary
    assert f"afv.weight resized from {rows} to 264 rows" in line
    assert f"outputs.atomic_shift.shifts.weight resized from {rows} to 264 rows" in line
    assert line.startswith(f"weights: {len(model.state_dict())} of {len(model.state_dict())} arrays")
    assert "initial" not in line
    assert "not used" not in line
    for fidelity in (0, 1):
        assert torch.equal(energies(model, fidelity), energies(trained, fidelity))


def test_weights_of_one_fidelity_initialize_all(tmp_path: Path) -> None:
    trained, model = build(1, seed=0), build(2, seed=1)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    line = load_weights(model, tmp_path / "w.pt").summary
    assert "afv.weight resized from 64 to 264 rows" in line
    assert "fid1 initialized from fid0" in line
    for fidelity in (0, 1):
        assert torch.allclose(energies(model, fidelity), energies(trained, 0))


def test_spare_rows_in_early_weights_do_not_count_as_a_fidelity(tmp_path: Path) -> None:
    trained, model = build(2, seed=0), build(2, seed=1)
    state = as_original(trained, rows=OFFSET + 129)
    torch.save({k: v for k, v in state.items() if not k.startswith("fidelity_readouts.1.")}, tmp_path / "w.pt")
    assert "fid1 initialized from fid0" in load_weights(model, tmp_path / "w.pt").summary
    for fidelity in (0, 1):
        assert torch.allclose(energies(model, fidelity), energies(trained, 0))


def test_an_additional_fidelity_is_initialized_from_the_first(tmp_path: Path) -> None:
    trained, model = build(2, seed=0), build(3, seed=1)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    assert "; fid2 initialized from fid0" in load_weights(model, tmp_path / "w.pt").summary
    for fidelity, source in enumerate((0, 1, 0)):
        assert torch.allclose(energies(model, fidelity), energies(trained, source))


@pytest.mark.parametrize("fidelities", [1, 2])
def test_surplus_fidelities_are_dropped(tmp_path: Path, fidelities: int) -> None:
    trained, model = build(3, seed=0), build(fidelities, seed=1)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    line = load_weights(model, tmp_path / "w.pt", offset=OFFSET).summary
    assert f"to {64 + OFFSET * (fidelities - 1)} rows" in line
    assert "not used: outputs.energy_mlp.heads." in line
    for fidelity in range(fidelities):
        assert torch.allclose(energies(model, fidelity), energies(trained, fidelity))


def test_a_shared_head_initializes_separate_heads(tmp_path: Path) -> None:
    trained, model = build(2, seed=0, readouts=False), build(2, seed=1)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    line = load_weights(model, tmp_path / "w.pt").summary
    assert "initialized" not in line
    for fidelity in (0, 1):
        assert torch.allclose(energies(model, fidelity), energies(trained, fidelity))


def test_weights_that_fit_are_loaded_without_notes(tmp_path: Path) -> None:
    trained, model = build(2, seed=0), build(2, seed=1)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    assert load_weights(model, tmp_path / "w.pt").summary.endswith(f"from {tmp_path / 'w.pt'}")
    assert torch.equal(energies(model, 1), energies(trained, 1))


@pytest.mark.parametrize("given", [1, 2])
@pytest.mark.parametrize("fidelities", [1, 2, 3])
def test_tables_as_large_as_those_of_the_model_fit(tmp_path: Path, given: int, fidelities: int) -> None:
    trained, model = build(given, seed=0, rows=100), build(fidelities, seed=1, rows=100)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt", offset=OFFSET)
    for fidelity in range(fidelities):
        expected = energies(trained, fidelity if fidelity < given else 0)
        assert torch.allclose(energies(model, fidelity), expected)


def test_a_table_for_another_offset_is_rejected(tmp_path: Path) -> None:
    torch.save(build(3, seed=0, offset=150).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"the embedding has 364 rows, .* fidelity_offset 200; set the"):
        load_weights(build(3, seed=1), tmp_path / "w.pt")


def test_a_table_with_another_number_of_columns_is_rejected(tmp_path: Path) -> None:
    state = build(1, seed=0).state_dict()
    state["afv.weight"] = torch.zeros(64, 3)
    torch.save(state, tmp_path / "w.pt")
    for fidelities in (1, 2):
        with pytest.raises(ConfigError, match=r"size mismatch for .*afv.weight"):
            load_weights(build(fidelities, seed=1), tmp_path / "w.pt")


def test_the_models_of_these_tests_have_the_expected_types() -> None:
    assert isinstance(build(1, seed=0), AIMNet2)
    assert isinstance(build(2, seed=0), MixedFidelity)


def test_fidelities_are_matched_by_name(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f", "g", "h"]
    trained, model = build(8, seed=0), build(3, seed=1)
    description = Description(
        definition=read_definition(MODEL),
        labels=built_in("energy", "charges"),
        fidelity_names=tuple(names),
        fidelity_offset=OFFSET,
        use_fidelity_readouts=True,
        reference_energies=tuple({8: -1.0 - index, 1: -0.5, 6: -2.0} for index in range(8)),
        elements=(frozenset({1, 6, 8}),) * 8,
    )
    save_weights(trained, description, tmp_path / "w.pt")
    loaded = load_weights(model, tmp_path / "w.pt", ["g", "x", "b"])
    assert "; x initialized from a" in loaded.summary
    assert loaded.summary.count("initialized") == 1
    assert loaded.reference_energies == {0: {8: -7.0, 1: -0.5, 6: -2.0}, 2: {8: -2.0, 1: -0.5, 6: -2.0}}
    for fidelity, source in enumerate((6, 0, 1)):
        assert torch.allclose(energies(model, fidelity), energies(trained, source), atol=1e-5)


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (["fid0", "fid1"], ["fid0", "fid1"], [(0, True), (1, True)]),
        (["gfn1", "wb97m"], ["fid0"], [(0, True), (0, False)]),
        (["fid0", "fid1"], ["gfn1", "wb97m"], [(0, True), (1, True)]),
        (["wb97m", "gfn1"], ["gfn1", "wb97m"], [(1, True), (0, True)]),
        (["pbe"], ["gfn1", "wb97m"], [(0, False)]),
        (["wb97m", "fid1"], ["gfn1", "wb97m"], [(1, True), (0, False)]),
    ],
)
def test_fidelities_match_by_name_and_otherwise_by_position(
    names: list[str], given: list[str], expected: list[tuple[int, bool]]
) -> None:
    assert [(origin.index, origin.is_same) for origin in match_fidelities(names, given)] == expected
