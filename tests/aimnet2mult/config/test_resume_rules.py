"""Runs are found by name or folder, and only settings that do not define the training change on a resume."""

from pathlib import Path
from typing import Any

import pytest

from aimnet2mult.config.merge import flatten, read_yaml, write_yaml
from aimnet2mult.config.resume_rules import (
    find_difference,
    find_run,
    list_newest_first,
    load_config,
    load_definition,
    reject_links,
    run_name_at,
)
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError, Problems
from aimnet2mult.quantities import LABELS

HDF5 = b"\x89HDF\r\n\x1a\n"


# ---- reading the settings of a run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "cannot read RUN/train.yaml: line 1: expected ',' or ']', but got '<stream end>'"),
        ("", "RUN/train.yaml is empty, so the settings of the run are lost; start a new run with --load"),
        ("run_name: r", "RUN/train.yaml: no data set is given; set at least data.fidelity_datasets.0=FILE.h5"),
    ],
)
def test_unreadable_settings_of_a_run_are_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path, [], [], problems=Problems(), restarts=False)
    assert str(raised.value) == message.replace("RUN", str(tmp_path))


# ---- finding runs


def test_runs_are_sorted_by_start_time_and_number(tmp_path: Path) -> None:
    names = ["a-20250102-030405", "a-20250102-030405-2", "a-20250102-030405-10", "a-20241231-235959"]
    others = ["a-b-20260101-000000", "ab-20260101-000000", "a-20260101", "a-20260101-000000-x"]
    for name in (*names, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.yaml").touch()
    (tmp_path / "a-20270101-000000").mkdir()
    found = [folder.name for folder in list_newest_first("a", tmp_path)]
    assert found == ["a-20250102-030405-10", "a-20250102-030405-2", "a-20250102-030405", "a-20241231-235959"]


def test_a_new_run_is_found_by_its_name(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / run_name_at("r.1", 1.5e9, number)
        folder.mkdir()
        (folder / "train.yaml").touch()
        assert list_newest_first("r.1", tmp_path)[0] == folder
    first, second = sorted(folder.name for folder in tmp_path.iterdir())
    assert second == f"{first}-2"


def test_the_folder_of_the_runs_may_not_exist_yet(tmp_path: Path) -> None:
    assert list_newest_first("a", tmp_path / "runs") == []


def test_a_run_is_a_folder_with_settings_given_by_path_or_name(tmp_path: Path) -> None:
    (tmp_path / "runs/r").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"no run 'r': there is no such folder, and no run with this ID or name"):
        find_run("r", tmp_path / "runs")
    (tmp_path / "runs/r/train.yaml").touch()
    assert find_run("r", tmp_path / "runs") == tmp_path / "runs/r"
    assert find_run(str(tmp_path / "runs/r"), tmp_path) == tmp_path / "runs/r"


# ---- settings of a resume


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run with every kind of input file."""
    for name in ("a.h5", "b.h5", "v.h5"):
        (tmp_path / name).write_bytes(HDF5)
    (tmp_path / "w.pt").write_bytes(b"PK")
    (tmp_path / "sae.yaml").touch()
    inputs = {
        "data.fidelity_datasets.0": "a.h5",
        "data.fidelity_datasets.1": "b.h5",
        "data.val_fidelity_datasets.0": "v.h5",
        "data.sae.energy.files.1": "sae.yaml",
        "load": "w.pt",
    }
    folder = tmp_path / "run"
    folder.mkdir()
    write_yaml(folder / "train.yaml", load([], [f"{key}={tmp_path / name}" for key, name in inputs.items()]).to_dict())
    return folder


def resume(run: Path, *overrides: str, restarts: bool = False) -> tuple[Config, list[str]]:
    problems = Problems()
    result = load_config(run, [], overrides, problems=problems, restarts=restarts)
    problems.raise_any()
    return result


@pytest.mark.parametrize(
    ("override", "inexact"),
    [
        ("trainer.epochs=7", ""),
        ("trainer.on_bad_step=stop", ""),
        ("trainer.max_bad_steps=3", ""),
        ("checkpoint.keep=9", ""),
        ("data.loaders.train.num_workers=2", ""),
        ("telemetry.sinks=none", ""),
        (f"telemetry.units.energy={LABELS['energy'].unit}", ""),
        ("data.samplers.train.batch_size=5", "data.samplers.train.batch_size was 256, is 5"),
        ("data.samplers.train.batch_size=256", ""),
        ("threads=2", "threads was None, is 2"),
        ("device=cpu", "device was auto, is cpu"),
        ("trainer.micro_batches=4", "trainer.micro_batches was 1, is 4"),
        ("trainer.tf32=True", "trainer.tf32 was False, is True"),
    ],
)
def test_a_change_is_accepted_and_named_if_it_changes_the_numbers(run: Path, override: str, inexact: str) -> None:
    config, changes = resume(run, override)
    assert changes == ([inexact] if inexact else [])
    key, _, value = override.partition("=")
    assert key.startswith("telemetry.") or str(_get(config, key)) == value


def _get(config: Config, key: str) -> object:
    value: object = config.to_dict()
    for word in key.split("."):
        assert isinstance(value, dict)
        value = value[word]
    return value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "seed=5",
            r"^seed was 0 in .*run and cannot be 5 after a resume\nonly trainer.epochs, .* may change; for others",
        ),
        ("optimizer.kwargs.lr=1", r"^optimizer.kwargs.lr was 0.0004 "),
        ("trainer.clip_grad_norm=1", r"^trainer.clip_grad_norm was None "),
        ("trainer.ema_decay=0.9", r"^trainer.ema_decay was None "),
        ("trainer.precision=float64", r"^trainer.precision was 'float32' "),
        ("data.fidelity_weights.0=2", r"^data.fidelity_weights.0 was None "),
        ("data.fidelity_weights={0: 2, 1: 3}", r"^data.fidelity_weights.0 was None .*\n.*weights.1 was None .*\nonly "),
        ("data.val_fidelity_datasets.1=${data.val_fidelity_datasets.0}", r"^data.val_fidelity_datasets.1 was None "),
        ("telemetry.units.energy=eV/particle", r"^telemetry.units.energy was 'kcal/mol' .* cannot be 'eV/particle' "),
    ],
)
def test_a_change_of_the_training_is_refused(run: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resume(run, override)


def test_data_that_have_moved_are_asked_for_by_key(run: Path) -> None:
    data, validation = run.parent / "a.h5", run.parent / "v.h5"
    for path in (data, validation):
        path.rename(path.with_suffix(".moved"))
    with pytest.raises(ConfigError) as error:
        resume(run)
    assert str(error.value).splitlines() == [
        f"{key}: no file {path}; if it has moved, add {key}=PATH to the command"
        for key, path in (("data.fidelity_datasets.0", data), ("data.val_fidelity_datasets.0", validation))
    ]
    moved = f"data.fidelity_datasets.0={data.with_suffix('.moved')}"
    config, changes = resume(run, moved, f"data.val_fidelity_datasets.0={validation.with_suffix('.moved')}")
    assert (config.data.fidelity_datasets[0], changes) == (str(data.with_suffix(".moved")), [])


def test_weights_are_needed_only_to_start_again(run: Path) -> None:
    (run.parent / "w.pt").unlink()
    resume(run)
    with pytest.raises(ConfigError, match=r"^load: no file .*w.pt$"):
        resume(run, restarts=True)


def test_reference_energies_are_needed_unless_they_are_in_the_run_folder(run: Path) -> None:
    (run.parent / "sae.yaml").unlink()
    with pytest.raises(ConfigError, match=r"^data.sae.energy.files.1: no file .*sae.yaml$"):
        resume(run)
    (run / "sae").mkdir()
    (run / "sae/fid1.yaml").touch()
    resume(run)


def test_the_definition_of_the_model_cannot_change(tmp_path: Path) -> None:
    definition = {"class": "a.Model", "kwargs": {"layers": 2}}
    write_yaml(tmp_path / "model.yaml", definition)
    for requested in (None, definition):
        problems = Problems()
        assert load_definition(tmp_path, requested, problems) == definition
        problems.raise_any()
    problems = Problems()
    load_definition(tmp_path, {"class": "a.Model", "kwargs": {"layers": 3, "bias": True}}, problems)
    with pytest.raises(ConfigError) as error:
        problems.raise_any()
    layers, bias = str(error.value).splitlines()
    assert layers.startswith(f"the model's kwargs.layers was 2 in {tmp_path} and cannot be 3 after a resume")
    assert bias.startswith("the model's kwargs.bias was None ")


def test_a_run_of_an_earlier_version_keeps_the_size_of_its_tables(tmp_path: Path) -> None:
    """Earlier versions left ``max_z`` out of definitions in the original's format."""
    definition = {"class": "a.Model", "kwargs": {"layers": 2}}
    requested = {"class": "a.Model", "kwargs": {"layers": 2, "max_z": 128}}
    write_yaml(tmp_path / "model.yaml", definition)
    problems = Problems()
    assert load_definition(tmp_path, requested, problems) == definition
    problems.raise_any()

    write_yaml(tmp_path / "model.yaml", requested)
    load_definition(tmp_path, {"class": "a.Model", "kwargs": {"layers": 2, "max_z": 64}}, problems)
    with pytest.raises(ConfigError, match=r"the model's kwargs\.max_z was 128 in .* and cannot be 64"):
        problems.raise_any()


# ---- the same training


def test_recorded_settings_are_compared_as_text_and_not_evaluated(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like a reference in the settings of a run is none."""
    monkeypatch.setenv("HOME", "/home/me")
    write_yaml(run / "model.yaml", {"class": "aimnet.models.AIMNet2"})
    recorded = read_yaml(run / "train.yaml")
    write_yaml(run / "train.yaml", {**recorded, "project_name": "${oc.env:HOME}"})
    same = load([], ["project_name=\\${oc.env:HOME}"], check_inputs=False, recorded=run / "train.yaml")
    other = load([], ["project_name=/home/me"], check_inputs=False, recorded=run / "train.yaml")
    assert find_difference(run, same, {"class": "aimnet.models.AIMNet2"}) == ""
    expected = "project_name was '${oc.env:HOME}', is '/home/me'"
    assert find_difference(run, other, {"class": "aimnet.models.AIMNet2"}) == expected


# ---- links


def test_reference_energies_behind_a_link_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "run" / "sae").mkdir(parents=True)
    (tmp_path / "run" / "sae" / "a.yaml").write_text("1: -0.5\n")
    reject_links(tmp_path / "run")
    (tmp_path / "run" / "sae" / "b.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match=r"run/sae/b\.yaml: links in a run folder are not followed"):
        reject_links(tmp_path / "run")


# ---- settings of a resume that drop others


DROPPING = [
    (
        {"optimizer": {"kwargs": {"lr": 1e-3, "weight_decay": 0.1}}},
        ["optimizer.class=torch.optim.SGD"],
        {"optimizer": {"class": "torch.optim.SGD", "kwargs": {}}},
    ),
    (
        {"optimizer": {"kwargs": {"lr": 1e-3}}},
        ["optimizer.class=torch.optim.SGD", "optimizer.kwargs.momentum=0.9"],
        {"optimizer": {"class": "torch.optim.SGD", "kwargs": {"momentum": 0.9}}},
    ),
    (
        {"scheduler": {"class": "torch.optim.lr_scheduler.ReduceLROnPlateau", "metric_name": "loss", "step": "val"}},
        ["scheduler={class: torch.optim.lr_scheduler.StepLR, kwargs: {step_size: 3}}"],
        {"scheduler": {"class": "torch.optim.lr_scheduler.StepLR", "kwargs": {"step_size": 3}, "metric_name": None}},
    ),
    ({"scheduler": {"class": "torch.optim.lr_scheduler.StepLR"}}, ["scheduler=null"], {"scheduler": None}),
    (
        {"loss": {"kwargs": {"components": {"energy": {"weight": 2.0}}}}},
        ["loss.class=aimnet.train.loss.MTLoss"],
        {"loss": {"class": "aimnet.train.loss.MTLoss", "kwargs": {}}},
    ),
    (
        {"optimizer": {"param_groups": {"heads": {"re": "head", "lr": 1e-3}}}},
        ["optimizer.param_groups.heads=null", "optimizer.param_groups.heads.re=mlp"],
        {"optimizer": {"param_groups": {"heads": {"re": "mlp"}}}},
    ),
]


@pytest.mark.parametrize(("file", "overrides", "expected"), DROPPING)
def test_the_command_that_started_a_run_also_resumes_it(
    run: Path, tmp_path: Path, file: dict[str, Any], overrides: list[str], expected: dict[str, Any]
) -> None:
    path = tmp_path / "settings.yaml"
    write_yaml(path, file)
    data = [f"{key}={value}" for key, value in flatten(read_yaml(run / "train.yaml")["data"], "data") if value]
    started = load([path], [*data, *overrides], check_inputs=False)
    _assert_contains(started.to_dict(), expected)
    write_yaml(run / "train.yaml", started.to_dict())
    problems = Problems()
    resumed, inexact = load_config(run, [path], overrides, problems=problems, restarts=False)
    problems.raise_any()
    assert (resumed, inexact) == (started, [])
    # Without any of the original settings, the run keeps its own.
    assert resume(run)[0] == started


def _assert_contains(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        if isinstance(value, dict) and value:
            _assert_contains(settings[key], value)
        else:
            assert settings[key] == value


def test_a_changed_setting_is_still_refused_after_the_command_that_started_the_run(run: Path, tmp_path: Path) -> None:
    write_yaml(tmp_path / "settings.yaml", {"optimizer": {"kwargs": {"lr": 1e-3}}})
    problems = Problems()
    load_config(run, [tmp_path / "settings.yaml"], [], problems=problems, restarts=False)
    with pytest.raises(ConfigError, match=r"^optimizer.kwargs.lr was 0.0004 .*cannot be 0.001"):
        problems.raise_any()
