"""A definition is built into a model that predicts the labels, or is rejected with the reason."""

import os
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
from aimnet2mult.models.build import build_model
from aimnet2mult.models.mixed_fidelity import MixedFidelity
from aimnet2mult.quantities import LABELS
from support.labels import built_in
from support.small_models import OUTPUTS, batch, build, definition, predict

PACKAGE = Path(aimnet2mult.__file__).parent
OURS = yaml.safe_load((PACKAGE / "models" / "aimnet2.yaml").read_text())


def test_a_single_fidelity_gives_the_plain_model() -> None:
    model = build(labels=built_in("energy", "charges"), use_fidelity_readouts=True)
    assert type(model) is AIMNet2
    assert model.afv.num_embeddings == 64


def test_the_model_computes_forces_only_if_they_are_labels() -> None:
    assert type(build(labels=built_in("energy", "forces"))) is Forces
    assert type(build(labels=built_in("energy", "forces")).module) is AIMNet2
    assert type(build(labels=built_in("energy"), n_fidelities=2)) is MixedFidelity
    assert type(build(labels=built_in("energy", "forces"), n_fidelities=2).module) is MixedFidelity


def test_a_model_is_in_training_mode_without_gradients() -> None:
    model = build(n_fidelities=2)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_default_is_the_definition_of_aimnet_with_two_charge_channels() -> None:
    theirs = yaml.safe_load((Path(aimnet.models.__file__).parent / "aimnet2.yaml").read_text())
    theirs["kwargs"]["num_charge_channels"] = 2
    assert theirs == OURS


def test_the_default_predicts_every_label() -> None:
    assert list(predict(build_model(OURS, labels=tuple(LABELS.values())), batch([0, 0]))) == list(LABELS)


def test_the_description_of_the_sample_states_the_number_of_parameters() -> None:
    sample = PACKAGE / "sample"
    given = yaml.safe_load((sample / "model.yaml").read_text())
    model = build_model(
        given, labels=tuple(LABELS.values()), n_fidelities=2, fidelity_offset=100, use_fidelity_readouts=True
    )
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
        (
            {"class": "aimnet.models.AIMNet3"},
            r"class is 'aimnet\.models\.AIMNet3'; .* did you mean aimnet\.models\.AIMNet2\?",
        ),
        ({"class": "nowhere.Model"}, r"class is 'nowhere\.Model'; cannot import nowhere: No module named 'nowhere'"),
        ({"class": "AIMNet2"}, r"class is 'AIMNet2'; expected a dotted path"),
        ({"class": 5}, r"class is 5; expected a dotted path"),
        ({"kwargs": {}}, r"has no key 'class'"),
        (
            definition(dipole={"class": "aimnet.modules.Dipoles"}),
            r"^kwargs\.outputs\.dipole\.class is 'aimnet\.modules\.Dipoles'; ",
        ),
        ({"class": "aimnet.models.AIMNet2", "kwargs": {"size": 3}}, r"cannot build the model: TypeError: .*'size'"),
        (definition(channels=3), r"cannot build the model: ValueError: num_charge_channels"),
        (
            {"class": "collections.OrderedDict"},
            r"^class is 'collections\.OrderedDict': a model may come from ",
        ),
        ({"class": "aimnet.models.base.load_model"}, r"which is not a torch\.nn\.Module class"),
        ({"class": "torch.nn.Linear", "args": [2, 3]}, r"the model fails to predict H2: TypeError"),
        (definition(channels=1), r"does not predict spin_charges; spin_charges require num_charge_channels: 2"),
        (definition(atomic_sum=None), r"the model predicts energy of H2 with shape \(1, 2\), expected \(1,\)"),
    ],
)
def test_an_unusable_definition_is_an_error_with_the_reason(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(definition=given)


def test_several_fidelities_require_an_aimnet2() -> None:
    wrapped = {"class": "aimnet.modules.Forces", "args": [definition()]}
    with pytest.raises(ModelError, match=r"require an aimnet\.models\.AIMNet2, not a Forces"):
        build(definition=wrapped, n_fidelities=2)


def test_an_offset_smaller_than_the_embedding_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"fidelity_offset is 63; expected at least 64"):
        build(n_fidelities=2, fidelity_offset=63)
    build(n_fidelities=2, fidelity_offset=64)


def test_separate_heads_require_a_head() -> None:
    sum_of_shifts = {
        "atomic_shift": {
            "class": OUTPUTS["atomic_shift"]["class"],
            "kwargs": {"key_in": "charges", "key_out": "energy"},
        }
    }
    given = definition(energy_mlp=None, **sum_of_shifts)
    with pytest.raises(ModelError, match=r"no aimnet\.modules\.Output among its outputs"):
        build(definition=given, n_fidelities=2, use_fidelity_readouts=True)


def test_building_and_predicting_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(build(n_fidelities=2, use_fidelity_readouts=True), batch([0, 1], padding=1))


HOSTILE = {
    "a nested class": definition(x={"class": "subprocess.check_output", "kwargs": {"args": ["touch", "executed"]}}),
    "an activation": {**OURS["kwargs"]["outputs"]["energy_mlp"]["kwargs"]["mlp"], "activation_fn": "os.system"},
    "an initializer": {"weight_init_fn": "torch.load"},
    "a class as initializer": {"weight_init_fn": "torch.nn.GELU"},
}


@pytest.mark.parametrize("given", HOSTILE.values(), ids=HOSTILE)
def test_a_definition_names_only_trusted_classes_and_functions_at_any_depth(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "class" not in given:
        given = {"class": "aimnet.modules.Output", "kwargs": {"n_in": 2, "n_out": 1, "key_in": "a", "mlp": given}}
    with pytest.raises(ModelError, match=r"a model may come from|which is not a function"):
        build_model(given, labels=built_in("energy"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("arguments", [{"kwargs": {"ptfile": "PATH"}}, {"args": [None, None, "PATH"]}])
@pytest.mark.parametrize("content", [None, b"PK", b"\x80\x02."])
def test_a_parameter_file_that_is_not_one_is_reported(
    tmp_path: Path, arguments: dict[str, Any], content: bytes | None
) -> None:
    path = tmp_path / "parameters.pt"
    os.mkfifo(path) if content is None else path.write_bytes(content)
    given = yaml.safe_load(yaml.safe_dump(arguments).replace("PATH", str(path)))
    with pytest.raises(ModelError, match=r"^kwargs\.outputs\.dispersion: cannot read the parameter file '.*': "):
        build(definition=definition(dispersion={"class": "aimnet.modules.lr.DispParam", **given}))


def test_the_parameters_of_aimnet_can_be_read() -> None:
    path = str(Path(aimnet.__file__).with_name("dftd3_data.pt"))
    with pytest.raises(ModelError, match=r"^cannot build the model: "):  # by aimnet, whose module expects another form
        build(definition=definition(dispersion={"class": "aimnet.modules.lr.DispParam", "kwargs": {"ptfile": path}}))


def test_aimnet_itself_imports_nothing_that_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A positional argument has no key by which it could be recognized as the path of a function."""
    monkeypatch.chdir(tmp_path)
    head = {"class": "support.small_models.PositionalMLP", "args": [2, 1, [2], "os.mkdir", {"path": "executed"}]}
    with pytest.raises(ModelError, match=r"'os\.mkdir'.*may come from"):
        build_model(head, labels=built_in("energy"))
    assert not (tmp_path / "executed").exists()


def test_building_does_not_include_files() -> None:
    """Only the definition that the user gives includes files; aimnet would look for this one."""
    with pytest.raises(ModelError, match="cannot build the model: TypeError"):
        build_model({"class": "torch.nn.ModuleList", "args": ["absent.yaml"]}, labels=built_in("energy"))
