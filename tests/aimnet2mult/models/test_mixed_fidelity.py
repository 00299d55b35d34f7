"""Several fidelities share one AIMNet2, except for the embedding of their atoms and optionally their heads."""

from typing import Any

import pytest
import torch
from aimnet.constants import get_masses
from torch import Tensor, nn

from aimnet2mult.quantities import LABELS
from support.labels import built_in
from support.small_models import Data, batch, build, definition, predict

DIPOLE = {
    "class": "aimnet.modules.Dipole",
    "kwargs": {"key_in": "charges", "key_out": "dipole", "center_coord": True},
}
COULOMB = {"class": "aimnet.modules.LRCoulomb", "kwargs": {"rc": 4.6, "key_in": "charges", "key_out": "energy"}}
BOTH = pytest.mark.parametrize("readouts", [False, True], ids=["shared heads", "separate heads"])


def mixed(*, readouts: bool = True, n_fidelities: int = 2, **options: Any) -> Any:
    return build(n_fidelities=n_fidelities, use_fidelity_readouts=readouts, **options)


def train_on(model: nn.Module, data: Data, steps: int = 1, lr: float = 0.05) -> None:
    """Train on an energy of 3 eV and forces of 0."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        found = model({key: value.detach().clone() for key, value in data.items()})
        ((found["energy"] - 3).square().mean() + found["forces"].square().mean()).backward()
        optimizer.step()


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def heads(model: nn.Module, fidelity: int) -> set[str]:
    return {name for name, _ in model.named_parameters() if f"energy_mlp.heads.{fidelity}." in name}


@BOTH
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("padding", [0, 2])
def test_a_structure_is_predicted_the_same_alone_and_in_a_mixed_batch(
    *, readouts: bool, train: bool, padding: int
) -> None:
    model = mixed(readouts=readouts, n_fidelities=3).train(train)
    data = batch([0, 1, 2, 1], padding=padding)
    together = predict(model, data)
    for row in range(4):
        alone = predict(model, {key: value[row : row + 1] for key, value in data.items()})
        for label, value in alone.items():
            torch.testing.assert_close(together[label][row : row + 1], value, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("padding", [0, 2])
def test_training_and_evaluation_mode_predict_the_same(*, readouts: bool, padding: int) -> None:
    model = mixed(readouts=readouts)
    data = batch([1, 0, 1], padding=padding)
    in_training = predict(model.train(), data)
    for label, value in predict(model.eval(), data).items():
        torch.testing.assert_close(value, in_training[label], rtol=1e-4, atol=1e-5)


def test_with_shared_heads_all_fidelities_start_equal() -> None:
    """Embeddings and shifts of all fidelities are copies of the first one."""
    model = mixed(readouts=False, n_fidelities=3)
    first, *others = (predict(model, batch([f, f], padding=1)) for f in range(3))
    assert all(torch.equal(first[label], other[label]) for other in others for label in first)


def test_fidelity_0_predicts_the_same_as_the_plain_model() -> None:
    torch.manual_seed(7)
    plain = build(definition=definition(coulomb=COULOMB))
    torch.manual_seed(7)
    model = mixed(readouts=False, definition=definition(coulomb=COULOMB))
    for padding in (0, 1):
        expected = predict(plain, batch([0, 0], padding=padding))
        found = predict(model, batch([0, 0], padding=padding))
        assert all(torch.equal(found[label], expected[label]) for label in LABELS)


def test_with_separate_heads_fidelities_start_with_different_heads_and_shifts() -> None:
    model = mixed()
    parameters = dict(model.named_parameters())
    pairs = [(name, name.replace("heads.0", "heads.1")) for name in heads(model, 0) if name.endswith("weight")]
    assert len(pairs) == 2
    assert not any(torch.equal(parameters[one], parameters[other]) for one, other in pairs)
    shifts = parameters["module.model.outputs.atomic_shift.shifts.weight"]
    assert not torch.equal(shifts[1:64], shifts[101:164])
    first, second = (predict(model, batch([f, f])) for f in range(2))
    assert not torch.isclose(first["energy"], second["energy"]).any()
    assert torch.equal(first["charges"], second["charges"])


def test_each_fidelity_trains_its_own_head_shifts_and_embedding_and_no_others() -> None:
    model = mixed()
    for fidelity in (0, 1):
        before = values(model)
        train_on(model, batch([fidelity] * 3, padding=1, seed=fidelity))
        touched = changed(model, before)
        assert heads(model, fidelity) <= touched
        assert not heads(model, 1 - fidelity) & touched
        for table in ("module.model.afv.weight", "module.model.outputs.atomic_shift.shifts.weight"):
            rows = (dict(model.named_parameters())[table] != before[table]).any(dim=1).nonzero().flatten()
            assert len(rows)
            assert ((rows >= 100) == bool(fidelity)).all(), rows


def test_a_mixed_batch_trains_all_heads() -> None:
    model = mixed(n_fidelities=3)
    before = values(model)
    train_on(model, batch([0, 1, 2]))
    assert heads(model, 0) | heads(model, 1) | heads(model, 2) <= changed(model, before)


def test_with_shared_heads_fidelities_differ_by_their_embedding() -> None:
    model = mixed(readouts=False)
    train_on(model, batch([1, 1, 1]), steps=3)
    first, second = (predict(model, batch([f])) for f in range(2))
    assert not torch.isclose(first["energy"], second["energy"])


def test_the_gradient_of_an_unused_head_is_exactly_zero() -> None:
    model = mixed()
    found = model(batch([0, 0, 0], padding=1))
    (found["energy"].sum() + found["forces"].square().sum()).backward()
    parameters = dict(model.named_parameters())
    assert all(not parameters[name].grad.any() for name in heads(model, 1))
    assert any(parameters[name].grad.any() for name in heads(model, 0))


def test_nan_weights_of_a_head_do_not_affect_other_fidelities() -> None:
    model = mixed()
    data = batch([0, 0, 1], padding=1)
    healthy = predict(model, data)
    with torch.no_grad():
        for name in heads(model, 1):
            model.get_parameter(name).fill_(float("nan"))
    found = predict(model, data)
    assert found["energy"].isnan().tolist() == [False, False, True]
    assert torch.equal(found["energy"][:2], healthy["energy"][:2])
    assert torch.equal(found["forces"][:2], healthy["forces"][:2])


def test_nan_weights_of_an_unused_head_do_not_affect_gradients() -> None:
    model = mixed()
    with torch.no_grad():
        for name in heads(model, 1):
            model.get_parameter(name).fill_(float("nan"))
    found = model(batch([0, 0, 0], padding=1))
    (found["energy"].sum() + found["forces"].square().sum()).backward()
    others = [p.grad for name, p in model.named_parameters() if p.grad is not None and name not in heads(model, 1)]
    assert len(others) > 5
    assert all(gradient.isfinite().all() for gradient in others)


def test_nan_features_of_a_structure_do_not_affect_the_head_of_another_fidelity() -> None:
    data = batch([0, 1])
    data["charge"][1] = float("nan")
    model = mixed()
    model(data)["energy"][:1].sum().backward()
    gradients = [model.get_parameter(name).grad for name in heads(model, 0)]
    assert all(gradient.isfinite().all() for gradient in gradients)


@BOTH
@pytest.mark.parametrize("padding", [0, 1])
def test_forces_are_the_negative_gradient_of_the_energy(*, readouts: bool, padding: int) -> None:
    model = mixed(readouts=readouts, definition=definition(coulomb=COULOMB)).eval()
    data = batch([0, 1], padding=padding)
    forces = predict(model, data)["forces"]
    step = 2e-3
    for row, atom, axis in ((0, 0, 0), (0, 3, 1), (1, 1, 2), (1, 2, 0)):
        energies = []
        for sign in (1, -1):
            moved = {key: value.clone() for key, value in data.items()}
            moved["coord"][row, atom, axis] += sign * step
            energies.append(predict(model, moved)["energy"].double())
        slope = (energies[0] - energies[1]) / (2 * step)
        assert forces[row, atom, axis].item() == pytest.approx(-slope[row].item(), abs=2e-3)


def test_padding_has_no_forces_and_no_effect() -> None:
    model = mixed()
    padded = batch([0, 1], padding=2)
    assert not predict(model, padded)["forces"][1, 2:].any()
    cut = {key: value[1:, :2] if value.ndim > 1 else value[1:] for key, value in padded.items()}
    torch.testing.assert_close(
        predict(model, padded)["energy"][1:], predict(model, cut)["energy"], rtol=1e-4, atol=1e-5
    )


@BOTH
@pytest.mark.parametrize("first", [True, False], ids=["before the heads", "after them"])
def test_output_modules_see_true_atomic_numbers(*, readouts: bool, first: bool) -> None:
    given = definition()
    outputs = given["kwargs"]["outputs"]
    given["kwargs"]["outputs"] = {"dipole": DIPOLE, **outputs} if first else {**outputs, "dipole": DIPOLE}
    model = mixed(readouts=readouts, definition=given)
    data = batch([1, 1, 0], padding=1)
    data["charge"] += 1  # the dipole of a neutral molecule does not depend on the center of mass
    found = model({key: value.clone() for key, value in data.items()})
    masses = get_masses()[data["numbers"].long()].masked_fill(data["numbers"] == 0, 0)
    center = (data["coord"] * masses.unsqueeze(-1)).sum(1) / masses.sum(1, keepdim=True)
    expected = (found["charges"].unsqueeze(-1) * (data["coord"] - center.unsqueeze(1))).sum(1)
    torch.testing.assert_close(found["dipole"], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found["numbers"], data["numbers"].long())


def test_the_long_range_coulomb_energy_is_the_same_for_all_fidelities() -> None:
    difference = []
    for fidelity in (0, 1):
        torch.manual_seed(3)
        without = predict(mixed(), batch([fidelity]))["energy"]
        torch.manual_seed(3)
        difference.append(predict(mixed(definition=definition(coulomb=COULOMB)), batch([fidelity]))["energy"] - without)
    assert difference[0].item() == pytest.approx(difference[1].item(), abs=1e-6)
    assert abs(difference[0].item()) > 1e-6


@BOTH
def test_outputs_can_be_a_list(*, readouts: bool) -> None:
    named = definition(coulomb=COULOMB)
    listed = definition(coulomb=COULOMB)
    listed["kwargs"]["outputs"] = list(listed["kwargs"]["outputs"].values())
    torch.manual_seed(1)
    expected = predict(mixed(readouts=readouts, definition=named), batch([0, 1]))
    torch.manual_seed(1)
    found = predict(mixed(readouts=readouts, definition=listed), batch([0, 1]))
    assert all(torch.equal(found[label], expected[label]) for label in LABELS)


@BOTH
def test_a_state_dict_restores_a_trained_model(*, readouts: bool) -> None:
    model = mixed(readouts=readouts)
    train_on(model, batch([0, 1, 1]), steps=2)
    other = mixed(readouts=readouts)
    other.load_state_dict(model.state_dict())
    expected = predict(model, batch([1, 0], padding=1))
    assert all(torch.equal(value, expected[label]) for label, value in predict(other, batch([1, 0], padding=1)).items())


def test_a_head_may_have_several_outputs_per_atom() -> None:
    volumes = {
        "class": "aimnet.modules.Output",
        "kwargs": {"n_in": 6, "n_out": 3, "key_in": "aim", "key_out": "volumes", "mlp": {"hidden": []}},
    }
    model = mixed(definition=definition(volumes=volumes))
    data = batch([0, 1], padding=1)
    together = model({key: value.clone() for key, value in data.items()})["volumes"]
    assert together.shape == (2, 4, 3)
    assert not together[1, 3:].any()
    alone = model({key: value[1:].clone() for key, value in data.items()})["volumes"]
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


def test_flat_batches_with_neighbor_lists_are_supported() -> None:
    """The calculator of aimnet uses this layout for large systems."""
    model = mixed(labels=built_in("energy", "charges"))
    data = batch([0, 1])
    expected = predict(model, data)
    atoms = 4
    others = torch.tensor([[j for j in range(atoms) if j != i] for i in range(atoms)])
    neighbors = torch.cat([others, others + atoms, torch.full((1, atoms - 1), 2 * atoms)])
    flat = {
        "coord": torch.cat([data["coord"].flatten(0, 1), torch.zeros(1, 3)]),
        "numbers": torch.cat([data["numbers"].flatten(), torch.zeros(1, dtype=torch.int32)]),
        "charge": data["charge"],
        "mult": data["mult"],
        "fidelity": data["fidelity"],
        "nbmat": neighbors,
        "mol_idx": torch.tensor([0] * atoms + [1] * (atoms + 1)),
    }
    found = predict(model, flat)
    torch.testing.assert_close(found["energy"], expected["energy"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["charges"][:-1], expected["charges"].flatten(), rtol=1e-4, atol=1e-5)
