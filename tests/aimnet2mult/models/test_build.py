"""A definition becomes a model that predicts what is learnt, or an error that says what is wrong."""

import warnings
from pathlib import Path
from typing import Any

import aimnet.models
import pytest
import torch
import yaml
from aimnet.models import AIMNet2
from aimnet.modules import Forces

import aimnet2mult
from aimnet2mult.errors import ModelError
from aimnet2mult.labels import LABELS
from aimnet2mult.models.build import build_model
from aimnet2mult.models.mixed_fidelity import MixedFidelity
from support.small_models import OUTPUTS, batch, build, definition, predict

PACKAGE = Path(aimnet2mult.__file__).parent
OURS = yaml.safe_load((PACKAGE / "models" / "aimnet2.yaml").read_text())


def test_one_data_set_gives_the_plain_model() -> None:
    model = build(labels=("energy", "charges"), use_fidelity_readouts=True)
    assert type(model) is AIMNet2
    assert model.afv.num_embeddings == 64


def test_forces_are_around_the_model_only_where_they_are_learnt() -> None:
    assert type(build(labels=("energy", "forces"))) is Forces
    assert type(build(labels=("energy", "forces")).module) is AIMNet2
    assert type(build(labels=("energy",), n_fidelities=2)) is MixedFidelity
    assert type(build(labels=("energy", "forces"), n_fidelities=2).module) is MixedFidelity


def test_a_model_is_ready_to_be_trained() -> None:
    model = build(n_fidelities=2)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_default_is_the_model_of_aimnet_with_two_charge_channels() -> None:
    theirs = yaml.safe_load((Path(aimnet.models.__file__).parent / "aimnet2.yaml").read_text())
    theirs["kwargs"]["num_charge_channels"] = 2
    assert theirs == OURS


def test_the_default_predicts_every_label() -> None:
    assert list(predict(build_model(OURS, labels=tuple(LABELS)), batch([0, 0]))) == list(LABELS)


def test_the_model_of_the_sample_data_has_as_many_parameters_as_it_says() -> None:
    sample = PACKAGE / "sample"
    given = yaml.safe_load((sample / "model.yaml").read_text())
    model = build_model(given, labels=tuple(LABELS), n_fidelities=2, fidelity_offset=100, use_fidelity_readouts=True)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"{round(count, -3):,} parameters" in (sample / "README.md").read_text(encoding="utf-8")


def test_initial_values_come_from_the_global_generator() -> None:
    torch.manual_seed(5)
    first = build(n_fidelities=2, use_fidelity_readouts=True).state_dict()
    torch.manual_seed(5)
    second = build(n_fidelities=2, use_fidelity_readouts=True).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_definition_is_not_changed_by_building_it() -> None:
    given = definition()
    build(definition=given, n_fidelities=2, use_fidelity_readouts=True)
    assert given == definition()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class": "aimnet.models.AIMNet3"}, r"there is no class 'aimnet\.models\.AIMNet3'"),
        ({"class": "nowhere.Model"}, r"there is no class 'nowhere\.Model': No module named 'nowhere'"),
        ({"class": "AIMNet2"}, r"there is no class 'AIMNet2'"),
        ({"class": 5}, r"there is no class 5"),
        ({"kwargs": {}}, r"has no key 'class'"),
        (definition(dipole={"class": "aimnet.modules.Dipoles"}), r"there is no class 'aimnet\.modules\.Dipoles'"),
        ({"class": "aimnet.models.AIMNet2", "kwargs": {"size": 3}}, r"cannot be built: TypeError: .*'size'"),
        (definition(channels=3), r"cannot be built: ValueError: num_charge_channels"),
        ({"class": "collections.OrderedDict"}, r"builds a OrderedDict, not a torch\.nn\.Module"),
        ({"class": "torch.nn.Linear", "args": [2, 3]}, r"the model fails for H2: TypeError"),
        (definition(channels=1), r"predicts no spin_charges; spin_charges need num_charge_channels: 2"),
        (definition(atomic_sum=None), r"the model's energy of H2 has the shape \(1, 2\), expected \(1,\)"),
    ],
)
def test_a_definition_that_cannot_be_used_is_an_error_that_says_why(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(definition=given)


def test_several_fidelities_need_an_aimnet2() -> None:
    wrapped = {"class": "aimnet.modules.Forces", "args": [definition()]}
    with pytest.raises(ModelError, match=r"need an aimnet\.models\.AIMNet2, not a Forces"):
        build(definition=wrapped, n_fidelities=2)


def test_an_offset_that_lets_elements_collide_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"fidelity_offset 63 is too small: the embedding has 64 elements"):
        build(n_fidelities=2, fidelity_offset=63)
    build(n_fidelities=2, fidelity_offset=64)


def test_heads_of_their_own_need_heads() -> None:
    sum_of_shifts = {
        "atomic_shift": {
            "class": OUTPUTS["atomic_shift"]["class"],
            "kwargs": {"key_in": "charges", "key_out": "energy"},
        }
    }
    given = definition(energy_mlp=None, **sum_of_shifts)
    with pytest.raises(ModelError, match=r"no aimnet\.modules\.Output among its outputs"):
        build(definition=given, n_fidelities=2, use_fidelity_readouts=True)


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(build(n_fidelities=2, use_fidelity_readouts=True), batch([0, 1], padding=1))
