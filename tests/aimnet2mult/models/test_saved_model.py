"""Run folders, weight files and checkpoints contain everything that is needed to use a model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import aimnet2mult
from aimnet2mult.errors import ConfigError, ModelError
from aimnet2mult.models.calculator import MixedFidelityCalculator
from aimnet2mult.models.checkpoint_folder import best_path
from aimnet2mult.models.description import describe_run
from aimnet2mult.models.envelope import WEIGHTS
from aimnet2mult.models.saved_model import build_saved_model, find_saved_model, read_saved_model
from support.file_contents import read_content
from support.saved_models import describe, write_weights
from support.small_models import batch, predict
from support.tiny_runs import newest_checkpoint, train_tiny

CPU = torch.device("cpu")


def test_a_weight_file_describes_its_model(tmp_path: Path) -> None:
    description = describe()
    model = write_weights(tmp_path / "w.pt", description)
    saved = read_saved_model(tmp_path / "w.pt")
    assert {key: getattr(saved, key) for key in vars(description)} == vars(description)
    data = batch([0, 1, 1])
    for label, value in predict(model, data).items():
        assert torch.equal(predict(build_saved_model(saved, CPU), data)[label], value)


def test_the_content_states_format_units_and_elements(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.pt", describe())
    title, content = torch.load(tmp_path / "w.pt", weights_only=True)
    assert (title, content.keys()) == ("aimnet2mult weights", {"description", "state"})
    found = content["description"]
    assert (found["format_version"], found["coord_unit"]) == (1, "angstrom")
    assert [label["source_unit"] for label in found["labels"]][:2] == ["eV/particle", "eV/particle/angstrom"]
    assert found["elements"] == [[1, 6, 7, 8], [1, 6, 7, 8, 17]]
    assert found["fidelity_names"] == ["gfn1", "wb97m"]


def test_building_leaves_the_random_numbers_as_they_are(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.pt", describe())
    state = torch.get_rng_state()
    build_saved_model(read_saved_model(tmp_path / "w.pt"), CPU)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("tiny"), "trainer.epochs=1", "checkpoint.best=loss")


def test_a_run_gives_its_best_or_its_last_weights(run: Path) -> None:
    best, last = read_saved_model(run), read_saved_model(run, "last")
    assert (best.source, last.source) == (best_path(run), newest_checkpoint(run))
    for name, value in read_content(last.source)["parts"]["model"].items():
        assert torch.equal(last.state[name], value)
    assert best.elements == last.elements == (frozenset({1, 6, 8}),)
    assert best.reference_energies == describe_run(run).reference_energies
    assert read_saved_model(newest_checkpoint(run)).elements == last.elements


def old(run: Path, folder: Path, **changes: str) -> Path:
    """Return a copy of a run as version 0.1 has written it, with changes of its files."""
    copy = folder / "old"
    (copy / "checkpoints").mkdir(parents=True)
    for name in ("train.yaml", "model.yaml"):
        (copy / name).write_text(changes.get(name, (run / name).read_text()))
    (copy / "sae").mkdir()
    for file in (run / "sae").iterdir():
        (copy / "sae" / file.name).write_text(file.read_text())
    content = read_content(newest_checkpoint(run))
    torch.save({**content, "description": None}, copy / "checkpoints" / newest_checkpoint(run).name)
    torch.save(read_content(best_path(run))["state"], best_path(copy))
    return copy


def test_a_run_of_an_earlier_version_is_described_by_its_folder(run: Path, tmp_path: Path) -> None:
    copy = old(run, tmp_path)
    for found in (read_saved_model(copy), read_saved_model(copy, "last"), read_saved_model(best_path(copy))):
        assert found.definition == read_saved_model(run).definition
        assert found.elements == (frozenset({1, 6, 8}),)
        build_saved_model(found, CPU)


def test_plain_weights_elsewhere_lack_a_description(run: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pt"
    torch.save(read_content(best_path(run))["state"], plain)
    with pytest.raises(ConfigError, match=r"plain\.pt contains weights without a description .*; give the run folder"):
        read_saved_model(plain)


def spoil_state(content: dict[str, Any]) -> None:
    content["state"] = {"mlp.0.weight": torch.full((2, 2), torch.nan)}


def spoil_elements(content: dict[str, Any]) -> None:
    content["description"]["elements"] = [[1, 600]]


SPOILED = {
    "another format": (lambda c: c["description"].update(format_version=99), "format is 99, and this version reads"),
    "no fidelity": (lambda c: c["description"].update(fidelity_names=[]), "fidelity_names"),
    "unequal lengths": (lambda c: c["description"].update(elements=[]), "have different lengths"),
    "other lengths": (lambda c: c["description"].update(absent_labels=[[]] * 3), "have different lengths"),
    "an element": (spoil_elements, "elements"),
    "not finite": (spoil_state, "is complex or not finite"),
    "no weights": (lambda c: c.update(state=3), "expected a state dict of tensors, found a int"),
    "an untrusted class": (
        lambda c: c["description"].update(definition={"class": "os.system"}),
        "a model may come from aimnet.models",
    ),
    "no plain values": (
        lambda c: c["description"].update(definition={"class": torch.ones(3)}),
        "the definition contains other objects than plain values",
    ),
    "no description": (lambda c: c.update(description=7), "Expected `object`, got `int`"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_damaged_or_hostile_weight_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    write_weights(tmp_path / "w.pt", describe())
    content = read_content(tmp_path / "w.pt")
    spoil, message = SPOILED[kind]
    spoil(content)
    torch.save((WEIGHTS, content), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_saved_model(tmp_path / "w.pt")
    assert "w.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_links_in_a_run_folder_are_not_followed(run: Path, tmp_path: Path) -> None:
    copy = old(run, tmp_path)
    best_path(copy).unlink()
    best_path(copy).symlink_to(best_path(run))
    with pytest.raises(ConfigError, match="not a regular file but a symbolic link"):
        read_saved_model(copy)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.pt", describe())
    content = read_content(tmp_path / "w.pt")
    del content["state"]["model.afv.weight"]
    torch.save((WEIGHTS, content), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"the weights do not fit the model: .*afv.weight"):
        build_saved_model(read_saved_model(tmp_path / "w.pt"), CPU)


def test_a_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        read_saved_model(tmp_path)
    (tmp_path / "train.yaml").touch()
    with pytest.raises(ConfigError, match="has no complete checkpoint"):
        read_saved_model(tmp_path)
    with pytest.raises(ConfigError, match="no run 'nowhere'"):
        find_saved_model("nowhere", tmp_path)


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "w.pt", describe())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert aimnet2mult.load_model("~/w.pt", "wb97m", device="cpu").fidelity == "wb97m"
    assert MixedFidelityCalculator("~/w.pt", "gfn1", device="cpu").predictor.fidelity == "gfn1"


def test_load_model_predicts_total_energies(tmp_path: Path) -> None:
    description = describe()
    model = write_weights(tmp_path / "w.pt", description)
    data = batch([1, 1, 1], padding=1)
    found = aimnet2mult.load_model(tmp_path / "w.pt", "wb97m", device="cpu")(data["numbers"], data["coord"])
    energies = {0: 0.0, **description.reference_energies[1]}
    reference = [sum(energies[z] for z in row) for row in data["numbers"].tolist()]
    expected = predict(model, data)
    assert found["energy"] == pytest.approx(expected["energy"].double().numpy() + reference, rel=1e-12)
    assert found["forces"] == pytest.approx(expected["forces"].numpy(), abs=1e-6)
    assert {name: array.shape for name, array in found.items()} == {
        "energy": (3,),
        "forces": (3, 4, 3),
        "charges": (3, 4),
        "spin_charges": (3, 4),
    }
    with pytest.raises(ConfigError, match="several fidelities: gfn1, wb97m; choose one"):
        aimnet2mult.load_model(tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"no fidelity 'wb97'; .*Did you mean 'wb97m'"):
        aimnet2mult.load_model(tmp_path / "w.pt", "wb97")
