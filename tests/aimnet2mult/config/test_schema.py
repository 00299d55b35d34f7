"""Layers are merged in order, and unknown keys and invalid values are rejected."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from aimnet2mult.config.merge import DEFAULTS, flatten, read_yaml, write_yaml
from aimnet2mult.config.resume_rules import load_config
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError, Problems
from support.labels import built_in
from telemetry import SettingError, Settings
from telemetry.plugins.registry import select

HDF5 = b"\x89HDF\r\n\x1a\n"


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Return an override that sets an existing file as data set 0."""
    path = tmp_path / "a.h5"
    path.write_bytes(HDF5)
    return f"data.fidelity_datasets.0={path}"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_later_layers_win(tmp_path: Path, dataset: str) -> None:
    first = write(tmp_path / "1.yaml", "seed: 1\ntrainer: {epochs: 1}\nproject_name: first\n")
    second = write(tmp_path / "2.yaml", "trainer: {epochs: 2}\nproject_name: second\n")
    config = load([first, second], [dataset, "project_name=third"])
    assert (config.seed, config.trainer.epochs, config.project_name) == (1, 2, "third")
    assert config.trainer.clip_grad_value == 0.4


def test_the_last_of_two_overrides_wins(dataset: str) -> None:
    assert load([], [dataset, "seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("[0.9, 0.99]", [0.9, 0.99]), ("null", None), ("a=b", "a=b"), ("true", True)],
)
def test_overrides_are_read_as_yaml(dataset: str, text: str, value: object) -> None:
    assert load([], [dataset, f"optimizer.kwargs.x={text}"]).optimizer.kwargs["x"] == value


def test_fidelity_indices_in_overrides_are_integers_as_in_files(tmp_path: Path, dataset: str) -> None:
    config_file = write(tmp_path / "c.yaml", "data: {fidelity_names: {0: cheap}}")
    config = load([config_file], [dataset, "data.fidelity_names.0=accurate"])
    assert config.data.fidelity_names == {0: "accurate"}


def test_interpolations_are_resolved_after_merging(tmp_path: Path, dataset: str) -> None:
    config_file = write(tmp_path / "c.yaml", "project_name: p-${run_name}")
    assert load([config_file], [dataset, "run_name=r"]).project_name == "p-r"


def test_relative_paths_in_a_file_are_resolved_against_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here/sae.yaml", "PK")
    for name in ("there/a.h5", "here/b.h5"):
        write(tmp_path / name, "").write_bytes(HDF5)
    config_file = write(tmp_path / "there/c.yaml", "data: {fidelity_datasets: {0: a.h5}}")
    monkeypatch.chdir(tmp_path / "here")
    overrides = ["data.fidelity_datasets.1=b.h5", "data.sae.energy.files.1=sae.yaml", "load=sae.yaml"]
    config = load([config_file], overrides)
    assert config.load == str(tmp_path / "here/sae.yaml")
    assert config.data.fidelity_datasets == {
        0: str(tmp_path / "there/a.h5"),
        1: str(tmp_path / "here/b.h5"),
    }
    assert config.data.sae.energy.files == {1: str(tmp_path / "here/sae.yaml")}


def test_a_changed_class_drops_the_kwargs_of_lower_layers(dataset: str) -> None:
    config = load([], [dataset, "optimizer.class=torch.optim.SGD", "optimizer.kwargs.lr=0.1"])
    assert config.optimizer.kwargs == {"lr": 0.1}
    schedules = [dataset, "scheduler={class: torch.a, kwargs: {x: 1}, step: val}", "scheduler={class: torch.b}"]
    assert load([], schedules).to_dict()["scheduler"] == {
        "class": "torch.b",
        "kwargs": {},
        "step": None,
        "metric_name": None,
    }
    same = load([], [dataset, "optimizer.class=torch.optim.RAdam", "optimizer.kwargs.lr=0.1"])
    assert same.optimizer.kwargs == {"lr": 0.1, "weight_decay": 1e-8}


def test_saved_settings_read_back_equal(tmp_path: Path, dataset: str) -> None:
    config = load([], [dataset, "data.fidelity_weights.0=0.5", "optimizer.kwargs.lr=1e-10", "run_name='007'"])
    write_yaml(tmp_path / "train.yaml", config.to_dict())
    assert load([tmp_path / "train.yaml"]) == config


def test_saved_settings_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    (tmp_path / "train.yaml.tmp").touch(mode=0o644)
    write_yaml(tmp_path / "train.yaml", {"a": 1})
    assert (tmp_path / "train.yaml").stat().st_mode & 0o777 == 0o600


def test_the_defaults_contain_exactly_the_keys_of_the_schema(dataset: str) -> None:
    defaults = {name for name, _ in flatten(read_yaml(DEFAULTS))} - {"data.fidelity_datasets"}
    config = {name for name, _ in flatten(load([], [dataset]).to_dict())} - {"data.fidelity_datasets.0"}
    assert config == defaults


VALIDATION = "data.val_fidelity_datasets.1"
UNKNOWN = [
    ("trainer.epoch=3", "trainer.epoch", "trainer.epochs"),
    ("epochs=3", "epochs", "trainer.epochs"),
    ("batch_size=3", "batch_size", "data.samplers.train.batch_size"),
    (
        "data.samplers.train.kwargs.batch_size=3",
        "data.samplers.train.kwargs.batch_size",
        "data.samplers.train.batch_size",
    ),
    ("data.fidelity_dataset.0=a", "data.fidelity_dataset.0", "data.fidelity_datasets"),
    ("optimiser.class=a", "optimiser.class", "optimizer.class"),
]


@pytest.mark.parametrize(("override", "name", "suggested"), UNKNOWN)
def test_an_unknown_key_is_rejected_with_the_closest_valid_one(
    tmp_path: Path, dataset: str, override: str, name: str, suggested: str
) -> None:
    wanted = re.escape(f"unknown key {name!r}") + ".*" + re.escape(f"Did you mean {suggested!r}?")
    with pytest.raises(ConfigError, match=wanted):
        load([], [dataset, override])
    text = "".join(f"{'  ' * depth}{word}:\n" for depth, word in enumerate(name.split(".")))
    with pytest.raises(ConfigError, match=wanted):
        load([write(tmp_path / "c.yaml", text)], [dataset])


def test_an_unknown_key_without_a_close_one_is_rejected_with_the_valid_keys(dataset: str) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key 'checkpoint.zzz' .*; valid keys: keep, best, .*, every_minutes, artifacts$"
    ):
        load([], [dataset, "checkpoint.zzz=1"])


@pytest.mark.parametrize(
    "override",
    [
        "loss.kwargs.x.y=1",
        "optimizer.param_groups.a={re: x, lr: 1}",
        "data.loaders.train.x=1",
        "telemetry.a.b=1",
    ],
)
def test_open_sections_accept_any_key(dataset: str, override: str) -> None:
    assert isinstance(load([], [dataset, override]), Config)


REFUSED = [
    ("optimizer.kwargs.lr=fast", r"optimizer.kwargs.lr is 'fast': expected a finite number of at least 0$"),
    ("optimizer.param_groups.a={re: x, lr: [1]}", r"optimizer.param_groups.a.lr is \[1\]: expected a finite number"),
    ("optimizer.class=Adam", r"optimizer.class is 'Adam'; expected a dotted path"),
    ("scheduler.class=no_package.Cosine", r"scheduler.class is .*; cannot import no_package: No module named"),
    ("loss.class=5", r"loss.class is 5: expected a text"),
    ("loss.kwargs.components.energy.weight=abc", r"components.energy.weight is 'abc': expected a finite number"),
    ("loss.kwargs.components.energy.fn=mse", r"components.energy.fn is 'mse'; expected a dotted path"),
    ("loss.kwargs.components.energy=1", r"components.energy is 1: expected fn, weight and kwargs"),
    ("loss.kwargs.components.forces.kwargs.key_true=force", r"forces.kwargs.key_true: no label 'force'; .*'forces'"),
    ("loss.kwargs.components=1", r"loss.kwargs.components is 1: expected loss components by name"),
    ("data.val_fidelity_datasets.1=a.h5", r"val_fidelity_datasets.1 is set, but data.fidelity_datasets.1 is not"),
    ("trainer.epochs=0", r"trainer.epochs is 0: expected an integer of at least 1$"),
    ("trainer.epochs=many", r"trainer.epochs is 'many': expected an integer of at least 1$"),
    ("trainer.epochs=true", r"trainer.epochs is True: expected an integer"),
    ("trainer=3", r"trainer is 3 in trainer=3: expected a section with the keys epochs"),
    ("seed.x=3", r"seed is {'x': 3}: expected an integer"),
    ("seed=-1", r"seed is -1: expected an integer of at least 0, below 4.29497e"),
    ("threads=0", r"threads is 0"),
    ("device=gpu", r"device is 'gpu': expected one of auto, cpu, cuda"),
    ("run_name=a/b", r"run_name is 'a/b': expected a name of letters, digits and _ \. -, not"),
    ("data.keys.forces=coord", r"data.keys: coord and forces would both be read from 'coord'; name different arrays"),
    ("data.keys={energy: E, forces: E}", r"data.keys: energy and forces would both be read from 'E'"),
    ("run_name=..", r"run_name is '\.\.'"),
    ('run_name="a\\n"', r"run_name is 'a\\n': expected a name of letters"),
    (f"run_name={'é' * 120}", r"run_name is é+…, 240 bytes long: expected up to 230, because files are named so"),
    ('data.fidelity_names.0="a\\n"', r"data.fidelity_names.0 is 'a\\n': expected a name of letters"),
    (f"data.fidelity_names.0={'a' * 231}", r"data.fidelity_names.0 is a+…, 231 bytes long: expected up to 230"),
    ('project_name="a\\nb"', r"project_name is 'a\\nb': expected up to 250 printable characters"),
    (f"project_name={'a' * 251}", r"project_name is 'a+: expected up to 250 printable characters"),
    ('telemetry.dir="a\\nb"', r"telemetry.dir is 'a\\nb': expected a path of printable characters"),
    ('load="a\\nb"', r"load is '/.*a\\nb': expected a path of printable characters"),
    (f"load={'a' * 5000}", r"load: no file /.*aaa"),
    ("loss.kwargs.components.a\n.weight=1", r"components.a\\n.weight' is not a key: expected up to 250 printable"),
    (f"{'a.' * 60}b=1", r"the values are nested more than 50 deep"),
    ("seed=18446744073709551616", r"18446744073709551616 is not an integer of up to 64 bits"),
    ("project_name=${oc.env:WANDB_API_KEY}", r"project_name is .*variable WANDB_API_KEY cannot be used"),
    ("project_name=''", r"project_name is ''"),
    ("data.val_fraction=-0.1", r"data.val_fraction is -0.1: expected a number of at least 0, below 1$"),
    ("data.val_fraction=1", r"data.val_fraction is 1: expected a number of at least 0, below 1$"),
    ("data.val_fraction=.nan", r"data.val_fraction is nan"),
    ("data.samplers.train.batch_size=0", r"data.samplers.train.batch_size is 0"),
    ("data.samplers.val.batch_mode=atom", r"batch_mode is 'atom': expected one of atoms, molecules"),
    ("data.samplers.train.batches_per_epoch=0", r"batches_per_epoch is 0"),
    ("data.fidelity_weights.0=-1", r"data.fidelity_weights.0 is -1: expected a number of at least 0, finite$"),
    ("data.fidelity_weights.0=0", r"data.fidelity_weights are all 0"),
    ("data.fidelity_weights.1=1", r"data.fidelity_weights.1 is set, but data.fidelity_datasets.1 is not"),
    ("data.sae.energy.files.1=a.yaml", r"data.sae.energy.files.1 is set, but data.fidelity_datasets.1 is not"),
    ("data.sae.energy.files.0=no.yaml", r"data.sae.energy.files.0: no file /.*no\.yaml"),
    ("load=${data.fidelity_datasets.0}", r"load: .*a.h5 does not contain weights: expected a file written by torch"),
    ("load=no.pt", r"load: no file /.*no\.pt"),
    ("data.fidelity_names.0=a/b", r"data.fidelity_names.0 is 'a/b': expected a name of letters"),
    ("data.fidelity_names.0=[5]", r"data.fidelity_names.0 is \[5\]"),
    ("run_name=null", r"run_name is None: expected a name"),
    ("data.fidelity_datasets.2=a.h5", r"has the indices \[0, 2\]: expected 0, 1, … without gaps"),
    ("data.fidelity_datasets.1=no.h5", r"data.fidelity_datasets.1: no file /.*no\.h5"),
    ("data.fidelity_datasets.one=a.h5", r"expected fidelity indices 0, 1, … as keys"),
    ("data.fidelity_datasets=a.h5", r"data.fidelity_datasets is '.*a.h5': expected a mapping"),
    ("data.keys.energi=E", r"data.keys: no array 'energi'; arrays: coord, .*Did you mean 'energy'"),
    ("data.y=[]", r"data.y is \[\]: expected at least one label"),
    ("data.y=[energy, energy]", r"data.y is .*each only once"),
    ("data.y=[energy, force]", r"data.y: no label 'force'; .*Did you mean 'forces'"),
    ("fidelity_offset=0", r"fidelity_offset is 0"),
    ("trainer.clip_grad_norm=0", r"trainer.clip_grad_norm is 0: expected a number above 0, finite$"),
    ("checkpoint.keep=0", r"checkpoint.keep is 0"),
    ("log_frequency.val=0", r"log_frequency.val is 0"),
    ("optimizer.force_train=['(']", r"optimizer.force_train\[0\] is '\(': expected a regular expression"),
    ("optimizer.param_groups.a.lr=1", r"optimizer.param_groups.a.re is None: expected a regular"),
    ("scheduler.class=5", r"scheduler.class is 5: expected a text"),
    ("scheduler={class: a, stp: val}", r"unknown key 'scheduler.stp'; valid keys: class, kwargs, step"),
    ("scheduler={step: val}", r"scheduler.class is missing; valid keys: class"),
    ("scheduler={class: a, step: vall}", r"scheduler.step is 'vall': expected one of epoch, iteration, val"),
    ("telemetry.units=kcal", r"telemetry.units is 'kcal': expected units by label"),
    ("telemetry.units.energi=eV", r"telemetry.units: no label 'energi'.*Did you mean 'energy'"),
    ("telemetry=3", r"telemetry is 3: expected a mapping"),
    ("seed=${nowhere}", r"nowhere"),
    ("seed=[1", r"seed: '\[1' is not a YAML value"),
    ("seed", r"'seed' is not an override: expected KEY=VALUE"),
    ("=1", r"'=1' is not an override"),
    ("a..b=1", r"is not an override"),
    ("train.yaml", r"pass a file of settings with --config"),
]


@pytest.mark.parametrize(("override", "message"), REFUSED)
def test_an_invalid_value_is_rejected_with_its_key(dataset: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load([], [dataset, override])
    assert all(str(caught.value).splitlines())


def test_all_problems_of_all_layers_are_reported_at_once_one_line_each(tmp_path: Path) -> None:
    config_file = write(tmp_path / "c.yaml", "trainer: {epochs: ten}\ndata: {fidelity_weights: {0: -1}}\nsede: 1\n")
    overrides = ["data.fidelity_datasets.0=no.h5", "optimizer.kwargs.lr=fast", "checkpoint.keep=0", "seed"]
    with pytest.raises(ConfigError) as caught:
        load([config_file, tmp_path / "no.yaml"], overrides)
    lines = str(caught.value).splitlines()
    named = ["no.yaml", "'seed'", "'sede'", "fidelity_weights.0", "epochs", "checkpoint.keep", "kwargs.lr", "no.h5"]
    assert len(lines) == len(named)
    assert all(any(name in line for line in lines) for name in named), lines


@pytest.mark.parametrize("name", ["123456", "010", "1e5", "2026-01-02", "true", "1_000", "0x1F", "007"])
def test_names_that_look_like_numbers_are_text_on_the_command_line_and_in_files(
    tmp_path: Path, dataset: str, name: str
) -> None:
    overrides = [f"run_name={name}", f"project_name={name}", f"data.fidelity_names.0={name}"]
    text = f"run_name: {name}\nproject_name: {name}\ndata: {{fidelity_names: {{0: {name}}}}}\n"
    in_override, in_file = load([], [dataset, *overrides]), load([write(tmp_path / "c.yaml", text)], [dataset])
    for config in (in_override, in_file, load([], [dataset, *overrides[:2], f"data.fidelity_names={{0: {name}}}"])):
        assert (config.run_name, config.project_name, config.fidelity_names) == (name, name, (name,))
    write_yaml(tmp_path / "train.yaml", in_file.to_dict())
    assert load([tmp_path / "train.yaml"]) == in_file


def test_a_data_set_named_like_a_number_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "2026").write_bytes(HDF5)
    monkeypatch.chdir(tmp_path)
    assert load([], ["data.fidelity_datasets.0=2026"]).data.fidelity_datasets == {0: str(tmp_path / "2026")}


def test_a_tilde_is_expanded_in_paths_and_kept_without_such_a_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.h5").write_bytes(HDF5)
    assert load([], ["data.fidelity_datasets.0=~/a.h5"]).data.fidelity_datasets == {0: str(tmp_path / "a.h5")}
    with pytest.raises(ConfigError, match=r"no file .*~nobody_here/a.h5"):
        load([], ["data.fidelity_datasets.0=~nobody_here/a.h5"])


def test_any_fidelity_may_have_a_validation_file_and_it_must_exist(tmp_path: Path, dataset: str) -> None:
    overrides = [dataset, dataset.replace(".0=", ".1="), dataset.replace("data.fidelity_datasets.0", VALIDATION)]
    assert load([], overrides).data.val_fidelity_datasets == {1: str(tmp_path / "a.h5")}
    with pytest.raises(ConfigError, match=rf"^{VALIDATION}: no file .*no.h5$"):
        load([], [*overrides, f"{VALIDATION}=no.h5"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("telemetry.units.energy=Hartre", r"telemetry.units.energy: 'Hartre' is not a unit"),
        ("telemetry.units.forces=kcal/mol", r"telemetry.units.forces: cannot convert eV/.* another dimension"),
    ],
)
def test_an_invalid_unit_is_rejected_with_its_setting(dataset: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([], [dataset, override])


def test_null_removes_a_parameter_group_of_a_lower_layer(dataset: str) -> None:
    assert load([], [dataset, "optimizer.param_groups.shifts=null"]).optimizer.param_groups == {"shifts": None}


def test_two_fidelities_cannot_share_a_name(dataset: str) -> None:
    overrides = [dataset, dataset.replace(".0=", ".1="), "data.fidelity_names.0=fid1"]
    with pytest.raises(ConfigError, match=r"fid1, fid1: every fidelity needs a unique name"):
        load([], overrides)


def test_a_fidelity_may_have_a_weight_of_zero(dataset: str) -> None:
    config = load([], [dataset, dataset.replace(".0=", ".1="), "data.fidelity_weights.0=0"])
    assert config.data.fidelity_weights == {0: 0.0}


def test_a_data_set_must_be_hdf5(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"\0" * 4000)
    override = f"data.fidelity_datasets.0={tmp_path / 'a.h5'}"
    with pytest.raises(ConfigError, match=r"data.fidelity_datasets.0: .*a.h5 is not an HDF5 file"):
        load([], [override])
    for user_block in (512, 1024, 65536):
        (tmp_path / "a.h5").write_bytes(b"\0" * user_block + HDF5)
        assert load([], [override])


def test_a_data_set_that_cannot_be_read_is_an_error(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.suffix == ".h5":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"data.fidelity_datasets.0: cannot read .*a.h5: Permission denied"):
        load([], [dataset])


def test_a_run_needs_a_data_set() -> None:
    with pytest.raises(ConfigError, match=r"data.fidelity_datasets.0=FILE.h5"):
        load()


BAD_FILES = {"a list": "[1, 2]", "no YAML": "a: [", "a repeated key": "seed: 1\nseed: 2\n", "not text": "\0"}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_without_a_mapping_is_rejected_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load([write(tmp_path / "bad.yaml", text)])


def test_a_missing_file_is_rejected_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load([tmp_path / "nowhere.yaml"])


def test_fidelities_are_named_by_index_by_default(dataset: str) -> None:
    config = load([], [dataset, dataset.replace(".0=", ".1="), "data.fidelity_names.1=accurate"])
    assert config.fidelity_names == ("fid0", "accurate")


def test_components_of_the_loss_are_named_if_it_has_any(dataset: str) -> None:
    assert load([], [dataset]).loss.components == ["energy", "forces", "charges", "spin_charges"]
    assert load([], [dataset, "loss.class=torch.nn.MSELoss"]).loss.components == []
    assert load([], [dataset, "loss.class=torch.nn.MSELoss", "loss.kwargs.components=[1]"]).loss.components == []


def test_labels_are_those_to_be_trained_in_display_order(dataset: str) -> None:
    assert load([], [dataset, "data.y=[charges, energy]"]).labels == built_in("energy", "charges")


def test_problems_can_be_collected_with_those_of_others(dataset: str) -> None:
    problems = Problems()
    problems.add("another problem")
    config = load([], [dataset, "trainer.epochs=0", "seed=3"], problems=problems)
    assert (config.trainer.epochs, config.seed) == (100, 3)
    with pytest.raises(ConfigError, match=r"^another problem\ntrainer.epochs is 0"):
        problems.raise_any()


def test_units_are_those_of_the_labels_by_default(dataset: str) -> None:
    units = load([], [dataset, "telemetry.units.energy=eV/particle"]).units
    assert (units["energy"], units["forces"]) == ("eV/particle", "kcal/mol/Å")


def test_credentials_of_sinks_are_not_stored_and_come_from_the_user_again_on_resume(
    tmp_path: Path, dataset: str
) -> None:
    given = [
        "telemetry.wandb.api_key=hunter2",
        "telemetry.mlflow.tracking_uri=https://me:hunter2@host",
        "telemetry.wandb.name=tokenizer",
    ]
    write_yaml(tmp_path / "train.yaml", load([], [dataset, *given]).to_dict())
    assert "hunter2" not in (tmp_path / "train.yaml").read_text(encoding="utf-8")
    resumed, _ = load_config(tmp_path, [], [], problems=Problems(), restarts=False)
    assert resumed.telemetry["wandb"] == {"api_key": "***", "name": "tokenizer"}
    assert resumed.telemetry["mlflow"] == {"tracking_uri": "https://***@host"}
    again, _ = load_config(tmp_path, [], given, problems=Problems(), restarts=False)
    assert again.telemetry["wandb"]["api_key"] == "hunter2"
    with pytest.raises(SettingError, match="set TELEMETRY_MLFLOW_TRACKING_URI in the environment"):
        select(["mlflow"], Settings.parse({"mlflow": resumed.telemetry["mlflow"]}).options)
