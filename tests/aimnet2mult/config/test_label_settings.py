"""Labels in the settings: declarations with mistakes, default components of the loss, and dropped labels."""

from pathlib import Path

import pytest

from aimnet2mult.config.label_settings import drop_labels
from aimnet2mult.config.merge import write_yaml
from aimnet2mult.config.resume_rules import find_difference, load_config
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError, Problems

VOLUMES = "shape: per_atom, unit: Å^3, abbr: V"


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    path = tmp_path / "a.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    return f"data.fidelity_datasets.0={path}"


def declare(dataset: str, name: str = "volumes", label: str = VOLUMES, *overrides: str) -> Config:
    return load([], [dataset, f"labels.{name}={{{label}}}", f"data.y=[energy, {name}]", *overrides])


def test_a_declared_label_has_its_definition_and_a_component_of_the_loss(dataset: str) -> None:
    config = declare(dataset, "volumes", f"{VOLUMES}, metric_unit: bohr^3, loss: {{weight: 0.5}}")
    energy, volumes = config.labels
    assert (energy.name, volumes.name, volumes.text) == ("energy", "volumes", "volumes")
    assert volumes.shape(5, 3) == (5, 3)
    assert (volumes.source_unit, config.units["volumes"]) == ("Å^3", "bohr^3")
    assert config.loss.kwargs["components"]["volumes"] == {
        "fn": "aimnet2mult.train.loss.peratom_loss_fn",
        "weight": 0.5,
        "kwargs": {"key_true": "volumes", "key_pred": "volumes"},
    }


@pytest.mark.parametrize(
    ("name", "label", "function"),
    [
        ("dipole", None, "mse_loss_fn"),
        ("gaps", "shape: per_structure, components: 2, unit: eV, abbr: g", "mse_loss_fn"),
        ("tensors", "shape: per_atom, components: 9, unit: '1', abbr: T", "peratom_loss_fn"),
    ],
)
def test_the_function_of_the_loss_follows_from_the_shape(
    dataset: str, name: str, label: str | None, function: str
) -> None:
    declared = [] if label is None else [f"labels.{name}={{{label}}}"]
    config = load([], [dataset, f"data.y=[{name}]", *declared])
    assert config.loss.kwargs["components"][name]["fn"] == f"aimnet2mult.train.loss.{function}"


def test_a_component_that_the_user_gives_replaces_that_of_the_declaration(dataset: str) -> None:
    given = "{fn: aimnet2mult.train.loss.peratom_loss_fn, weight: 7, kwargs: {key_true: volumes, key_pred: volumes}}"
    config = declare(dataset, "volumes", VOLUMES, f"loss.kwargs.components.v={given}")
    assert config.loss.components == ["energy", "forces", "charges", "spin_charges", "v"]


def test_null_removes_a_component_of_the_loss(dataset: str) -> None:
    config = load([], [dataset, "loss.kwargs.components.charges=null"])
    assert config.loss.components == ["energy", "forces", "spin_charges"]
    assert [*config.loss.arguments["components"]] == config.loss.components


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("energy", VOLUMES, r"labels\.energy is a built-in label"),
        ("coord", VOLUMES, r"labels\.coord: 'coord' is the name of something else in a batch"),
        ("loss", VOLUMES, r"labels\.loss: 'loss' is the name of something else"),
        ("2nd", VOLUMES, r"labels: '2nd' is not the name of a label: expected a letter"),
        ("a_mask", VOLUMES, r"labels: 'a_mask' is not the name of a label: .* not ending in _mask"),
        ("v", "shape: per_atom, unit: Å^3, abbr: E", r"labels\.v\.abbr is 'E', which is the abbreviation of energy"),
        (
            "v",
            "shape: per_atom, unit: Å^3, abbr: lr",
            r"labels\.v\.abbr is 'lr', with which the names of other metrics",
        ),
        ("v", "shape: per_atom, unit: Å^3, abbr: a_b", r"labels\.v\.abbr is 'a_b': expected a letter followed by"),
        ("v", "shape: per_atom, unit: Å^3, abbr: ''", r"labels\.v\.abbr is ''"),
        ("v", "shape: per_atom, unit: volume, abbr: V", r"labels\.v\.unit: 'volume' is not a unit"),
        ("v", f"{VOLUMES}, metric_unit: eV", r"labels\.v\.metric_unit: cannot convert Å\^3 to 'eV'"),
        ("v", f"{VOLUMES}, components: 0", r"labels\.v\.components is 0: expected an integer of at least 1"),
        ("v", f"{VOLUMES}, loss: {{weight: -1}}", r"labels\.v\.loss\.weight is -1"),
        ("v", f"{VOLUMES}, loss: {{fn: mse}}", r"labels\.v\.loss\.fn is 'mse'; expected a dotted path"),
        ("v", f"{VOLUMES}, wieght: 1", r"unknown key 'labels\.v\.wieght'; valid keys: shape, unit, abbr"),
        ("v", "shape: per_bond, unit: Å^3, abbr: V", r"labels\.v\.shape is 'per_bond': expected one of per_atom"),
        ("v", "shape: per_atom, abbr: V", r"labels\.v\.unit is missing"),
    ],
)
def test_a_mistake_in_a_declaration_is_rejected(dataset: str, name: str, label: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        declare(dataset, name, label)


def test_all_mistakes_in_declarations_are_reported_at_once(dataset: str) -> None:
    overrides = [
        "labels.a={shape: per_atom, unit: eV, abbr: A}",
        "labels.b={shape: per_atom, unit: eVV, abbr: A}",
        "telemetry.units.a=Å",
        "data.units.b=eV",
    ]
    with pytest.raises(ConfigError) as caught:
        load([], [dataset, "data.y=[energy, b]", *overrides])
    lines = str(caught.value).splitlines()
    assert [line.partition(" ")[0].rstrip(":") for line in lines] == [
        *("labels.a", "labels.b.abbr", "labels.b.unit", "data.units.b", "telemetry.units.a"),
    ]
    assert lines[0].endswith("add it to data.y, as in data.y=[energy,b,a]")


# ---- labels that no data set has -----------------------------------------------------------------------


ORIGINAL = "data: {y: [energy, forces], x: [coord, numbers], separate_val: true}\n"


@pytest.mark.parametrize(
    ("content", "overrides", "reaction"),
    [
        ("", [], "drop"),
        (ORIGINAL, [], "drop"),
        ("data: {y: [energy]}", [], "error"),
        ("", ["data.y=[energy]"], "error"),
        (ORIGINAL, ["data.y=[energy]"], "error"),
        ("", ["data.y=[energy]", "data.on_missing_label=drop"], "drop"),
        ("data: {y: [energy], on_missing_label: drop}", [], "drop"),
    ],
)
def test_a_missing_label_is_an_error_only_if_it_was_requested(
    dataset: str, tmp_path: Path, content: str, overrides: list[str], reaction: str
) -> None:
    (tmp_path / "c.yaml").write_text(content)
    assert load([tmp_path / "c.yaml"], [dataset, *overrides]).data.on_missing_label == reaction


@pytest.mark.parametrize("content", ["", ORIGINAL])
def test_a_run_without_a_dropped_label_is_resumed_with_the_same_command(
    dataset: str, tmp_path: Path, content: str
) -> None:
    (tmp_path / "c.yaml").write_text(content)
    requested = load([tmp_path / "c.yaml"], [dataset])
    dropped = [name for name in requested.data.y if name != "energy"]
    run = tmp_path / "run"
    run.mkdir()
    write_yaml(run / "train.yaml", drop_labels(requested, dropped).to_dict())
    write_yaml(run / "model.yaml", {"class": "x"})

    problems = Problems()
    config, inexact = load_config(run, [tmp_path / "c.yaml"], [dataset], problems=problems, restarts=False)
    problems.raise_any()
    assert not inexact
    assert [label.name for label in config.labels] == ["energy"]
    assert not {*config.loss.components} & {*dropped}
    assert find_difference(run, requested, {"class": "x"}) == ""

    explicit = load([tmp_path / "c.yaml"], [dataset, "data.y=[energy, forces]"])
    assert "data.y was" in find_difference(run, explicit, {"class": "x"})
