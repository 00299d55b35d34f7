"""Float64 reaches every input and prediction; bfloat16 stays in the hidden layers and in training."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from aimnet2mult.errors import ModelError
from aimnet2mult.models.precision import has_double_weights, use_bfloat16, use_float64
from support.small_models import batch, build, definition, predict
from support.tiny_model import TinyModel, batches

COULOMB = {"class": "aimnet.modules.LRCoulomb", "kwargs": {"key_in": "charges", "key_out": "energy"}}


def model_of(**outputs: Any) -> Any:
    torch.manual_seed(0)
    return build(definition=definition(**outputs), n_fidelities=2, use_fidelity_readouts=True).eval()


@pytest.mark.parametrize("outputs", [{}, {"coulomb": COULOMB}], ids=["local", "Coulomb"])
def test_all_predictions_are_computed_in_float64(outputs: dict[str, Any]) -> None:
    model, data = model_of(**outputs), batch([0, 1, 1], padding=1)
    single = predict(model, data)
    keys = list(model.state_dict())
    use_float64(model)
    double = predict(copy.deepcopy(model), data)
    assert list(model.state_dict()) == keys
    assert {pred.dtype for pred in double.values()} == {torch.float64}
    for label in single:
        torch.testing.assert_close(double[label], single[label].double(), rtol=1e-5, atol=1e-6)


def test_forces_in_float64_are_the_derivative_of_the_energy_to_nine_digits() -> None:
    model, data = model_of(coulomb=COULOMB), batch([0])
    use_float64(model)
    forces = predict(model, data)["forces"][0, 1, 0]
    energies = []
    for sign in (1, -1):
        moved = {**data, "coord": data["coord"].double()}
        moved["coord"][0, 1, 0] += sign * 1e-4
        energies.append(predict(model, moved)["energy"][0])
    assert float(-(energies[0] - energies[1]) / 2e-4) == pytest.approx(float(forces), rel=1e-6, abs=1e-9)


def test_a_model_that_converts_nothing_gets_float64_inputs() -> None:
    model = TinyModel()
    use_float64(model)
    x, _ = batches(1)[0]
    given = dict(x)
    pred = model(given)
    assert {pred[key].dtype for key in ("energy", "forces", "charges")} == {torch.float64}
    assert x["coord"].dtype == torch.float32


def test_bfloat16_affects_training_only_and_no_names() -> None:
    model, data = model_of(), batch([0, 1, 1], padding=1)
    single, keys = predict(model, data), list(model.state_dict())
    use_bfloat16(model)
    copied = copy.deepcopy(model)
    torch.testing.assert_close(predict(copied, data), single, rtol=0, atol=0)
    copied.train()
    trained = predict(copied, data)
    assert list(copied.state_dict()) == keys
    assert {pred.dtype for pred in trained.values()} == {torch.float32}
    for label in single:
        assert not torch.equal(trained[label], single[label])
        torch.testing.assert_close(trained[label], single[label], rtol=0.02, atol=0.002)


def test_hidden_layers_of_the_networks_compute_in_bfloat16_and_their_last_layer_does_not() -> None:
    model = model_of()
    use_bfloat16(model)
    types: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _m, _i, out, name=name: types.update({name: out.dtype}))
    model.train()
    predict(model, batch([0, 1]))
    half = {name for name, dtype in types.items() if dtype == torch.bfloat16}
    assert half == {"module.model.mlps.0.0", "module.model.mlps.1.0"}
    assert {dtype for name, dtype in types.items() if name not in half} == {torch.float32}


def test_gradients_in_bfloat16_reach_all_weights_through_the_forces() -> None:
    model, reference = model_of(), model_of()
    use_bfloat16(model)
    for one in (model, reference):
        one.train()
        one({key: value.clone() for key, value in batch([0, 1]).items()})["forces"].square().sum().backward()
    for own, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None)
        if own.grad is not None and other.grad is not None:
            assert own.grad.dtype == torch.float32
            assert torch.linalg.norm(own.grad - other.grad) <= 0.05 * torch.linalg.norm(other.grad) + 1e-6


def test_bfloat16_requires_an_aimnet2() -> None:
    with pytest.raises(ModelError, match=r"requires an aimnet.models.AIMNet2"):
        use_bfloat16(TinyModel())


def test_weights_in_float64_are_recognized() -> None:
    model = model_of()
    assert not has_double_weights(model.state_dict())
    use_float64(model)
    assert has_double_weights(model.state_dict())
