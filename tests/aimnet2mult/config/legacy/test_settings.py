"""Settings and models of the original trainer are read as they are, and said what they are not."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aimnet2mult.config.legacy import settings as original
from aimnet2mult.config.merge import read_yaml, write_yaml
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError
from aimnet2mult.models.definition import read_definition
from telemetry import Settings

FILES = Path(__file__).with_name("original")
NAMES = ["run_name=r", "project_name=p"]


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    original._say.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Return overrides that name two data sets."""
    for name in ("0.h5", "1.h5"):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    return [f"data.fidelity_datasets.{index}={tmp_path / f'{index}.h5'}" for index in (0, 1)]


def read(name: str, data: Sequence[str], *overrides: str) -> Config:
    return load([FILES / f"{name}.yaml"], [*data, *(NAMES if name == "plateau" else ()), *overrides])


def notice(caplog: pytest.LogCaptureFixture) -> str:
    """Return the one notice that was given."""
    (record,) = (record for record in caplog.records if record.name == "aimnet2mult.config.legacy.settings")
    assert record.levelno == logging.WARNING
    return record.getMessage()


def lines(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """Return what the notice says of each key."""
    pairs = (line.strip().partition(": ") for line in notice(caplog).splitlines()[2:])
    return {key: text for key, _, text in pairs}


def test_a_file_with_a_plateau_is_read_with_every_value_in_its_place(data: list[str]) -> None:
    config = read("plateau", data)
    assert (config.run_name, config.project_name, config.fidelity_offset) == ("r", "p", 200)
    assert config.data.samplers.train.batch_size == 256
    assert config.data.samplers.train.batches_per_epoch == 3
    assert (config.data.samplers.val.batch_size, config.data.samplers.val.batch_mode) == (2048, "atoms")
    assert config.scheduler is not None
    assert config.scheduler.cls == "torch.optim.lr_scheduler.ReduceLROnPlateau"
    assert config.scheduler.kwargs == {"factor": 0.9, "patience": 2}
    assert config.scheduler.metric_name == "val_E_rmse"
    assert config.trainer.stop_below_lr == 1e-7
    assert (config.checkpoint.keep, config.checkpoint.best) == (5, "loss")
    assert config.log_frequency.val is None
    assert config.telemetry["every"] == 500
    assert config.telemetry["wandb"] == {"project": "p", "name": "r", "mode": "online"}
    assert config.telemetry["sinks"] == ["wandb"]
    Settings.parse({key: value for key, value in config.telemetry.items() if key != "units"})


def test_a_late_file_is_read_with_every_value_in_its_place(data: list[str]) -> None:
    config = read("iterations", data)
    assert config.trainer.clip_grad_norm == 1.0
    assert config.trainer.stop_below_lr is None
    assert (config.checkpoint.keep, config.checkpoint.best) == (3, None)
    assert config.log_frequency.val == 50
    assert config.telemetry["every"] == 10
    assert config.telemetry["wandb"] == {
        "mode": "offline",
        "entity": "lab",
        "project": "water",
        "name": "late",
        "notes": "a try",
        "tags": ["a"],
    }


def test_what_a_file_leaves_out_is_what_the_original_filled_in(data: list[str]) -> None:
    config = read("iterations", data)
    assert config.fidelity_offset == 200
    assert config.trainer.clip_grad_value is None
    assert (config.data.samplers.val.batch_size, config.data.samplers.val.batch_mode) == (64, "atoms")
    assert config.optimizer.param_groups["embeddings"] == {"re": "afv.weight", "lr": 5e-5, "weight_decay": 0.0}
    # As there, a default stays where the class is another one: not AdamW's own weight decay of 0.01.
    assert read("plateau", data).optimizer.kwargs["weight_decay"] == 1e-8


def test_small_numbers_are_numbers(data: list[str]) -> None:
    assert read("cosine", data).optimizer.kwargs["weight_decay"] == 1e-8
    assert read("plateau", data).optimizer.kwargs["eps"] == 1e-8


@pytest.mark.parametrize("name", ["plateau", "cosine", "iterations"])
def test_a_translated_file_reads_back_as_ours_and_equal(
    tmp_path: Path, data: list[str], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    config = read(name, data)
    write_yaml(tmp_path / "train.yaml", config.to_dict())
    caplog.clear()
    assert load([tmp_path / "train.yaml"]) == config
    assert not [record for record in caplog.records if record.name == "aimnet2mult.config.legacy.settings"]
    # As when a batch script is run again with --resume.
    assert load([tmp_path / "train.yaml", FILES / f"{name}.yaml"], [] if name != "plateau" else NAMES) == config


def test_losses_are_ours_where_they_were_aimnets(data: list[str]) -> None:
    loss = read("cosine", data).loss
    assert loss.cls == "aimnet2mult.train.loss.MTLoss"
    assert loss.kwargs["components"]["energy"]["fn"] == "aimnet2mult.train.loss.energy_loss_fn"
    assert loss.kwargs["components"]["forces"]["fn"] == "aimnet2mult.train.loss.peratom_loss_fn"


# ---------------------------------------------------------------- the notice


def test_what_has_no_effect_is_named_once_with_what_to_use_instead(
    data: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    read("plateau", data)
    read("plateau", data)
    said = lines(caplog)
    assert set(said) == {
        "metrics",
        "wandb.watch_model",
        "checkpoint.dirname",
        "checkpoint.filename_prefix",
        "data.ddp_load_full_dataset",
        "scheduler.kwargs.min_lr",
    }
    assert "telemetry.units.energy=eV" in said["metrics"]
    assert "train/grad_norm" in said["wandb.watch_model"]
    assert "--telemetry-dir" in said["checkpoint.dirname"]
    assert "plateau.yaml" in notice(caplog)
    assert "docs/how-to/moving-over.md" in notice(caplog)


def test_what_is_null_is_not_named(data: list[str], caplog: pytest.LogCaptureFixture) -> None:
    nothing = ["metrics=null", "wandb.watch_model=null", "checkpoint.dirname=null", "checkpoint.filename_prefix=null"]
    config = read("iterations", data, *nothing, "val_frequency=null", "data.val_fidelity_datasets=null")
    assert set(lines(caplog)) == {"optimizer.grad_clip", "scheduler"}
    assert config.data.val_fidelity_datasets == {}


NAMED = [
    ("data.x=[coord, numbers, charge]", "data.x", "mult will be read"),
    ("data.samplers.val.kwargs.batches_per_epoch=10", "data.samplers.val.kwargs.batches_per_epoch", "all its"),
    ("data.samplers.val.kwargs.sampling_strategy=weighted", "data.samplers.val.kwargs.sampling_strategy", "once"),
    ("checkpoint.kwargs.create_dir=true", "checkpoint.kwargs", "create_dir"),
    ("checkpoint=null", "checkpoint", "checkpoint.keep"),
    ("wandb.init.id=x", "wandb.init.id", "telemetry sinks"),
    ("optimizer.grad_clip.max_norm=2", "optimizer.grad_clip", "trainer.clip_grad_norm"),
    ("optimizer.force_no_train=['afv']", "optimizer.force_no_train", "is heeded here"),
]


@pytest.mark.parametrize(("override", "key", "text"), NAMED)
def test_what_cannot_be_had_is_named(
    data: list[str], caplog: pytest.LogCaptureFixture, override: str, key: str, text: str
) -> None:
    read("plateau", data, override)
    assert text in lines(caplog)[key]


REFUSED = [
    ("data.samplers.train.kwargs.shuffle=false", r"kwargs.shuffle is False: training data are always shuffled"),
    ("data.samplers.train.kwargs.sampling_strategy=random", r"is 'random': expected weighted or uniform"),
    ("data.sae.energy.mode=logratio", r"data.sae.energy.mode is 'logratio'"),
    ("data.x=[coord, numbers, charge, mult, cell]", r"data.x has cell; a model is given coord"),
    ("data.samplers.train.kwargs.drop_last=true", r"no key 'data.samplers.train.kwargs.drop_last'"),
    ("wandb.init.mode=shared", r"wandb.init.mode is 'shared': expected online"),
    ("wandb.log=1", r"no key 'wandb.log'"),
    ("val_frequency.mode=iterations", r"val_frequency has no 'every'"),
    ("optimizer.grad_clip.value=1", r"no key 'optimizer.grad_clip.value'"),
    ("project_name='???'", r"project_name is \?\?\? in .*plateau.yaml: give it, as in project_name="),
    ("trainer.evaluator=x", r"no key 'trainer.evaluator'"),
]


@pytest.mark.parametrize(("override", "message"), REFUSED)
def test_what_would_change_the_training_is_refused(data: list[str], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("plateau", data, override)


def test_one_key_of_the_original_in_a_file_of_ours_is_a_mistake(tmp_path: Path, data: list[str]) -> None:
    (tmp_path / "c.yaml").write_text("wandb: {init: {mode: offline}}\n")
    with pytest.raises(ConfigError, match=r"no key 'wandb.init.mode'"):
        load([tmp_path / "c.yaml"], data)


def test_overrides_may_be_in_either_format(data: list[str]) -> None:
    config = read(
        "plateau",
        data,
        "data.samplers.train.kwargs.batch_size=64",
        "wandb.init.mode=dryrun",
        "telemetry.every=7",
        "trainer.clip_grad_norm=1",
        "scheduler.kwargs.min_lr=1e-6",
    )
    assert config.data.samplers.train.batch_size == 64
    assert config.telemetry["wandb"]["mode"] == "offline"
    assert config.telemetry["every"] == 7
    assert config.trainer.clip_grad_norm == 1
    assert config.scheduler is not None
    assert config.scheduler.kwargs["min_lr"] == 1e-6


def test_relative_paths_start_at_the_file_and_placeholders_are_left_out(tmp_path: Path, data: list[str]) -> None:
    text = (FILES / "plateau.yaml").read_text()
    text = text.replace("fidelity_datasets: {}", "fidelity_datasets: {'0': 0.h5, 1: '???'}", 1)
    (tmp_path / "train.yaml").write_text(text)
    config = load([tmp_path / "train.yaml"], NAMES)
    assert config.data.fidelity_datasets == {0: str(tmp_path / "0.h5")}


# ---------------------------------------------------------------- W&B


def test_a_run_that_went_to_wandb_goes_there_unless_a_sink_is_named(data: list[str]) -> None:
    assert read("plateau", data).telemetry["sinks"] == ["wandb"]
    assert read("plateau", data, "telemetry.sinks=none").telemetry["sinks"] == "none"
    assert "sinks" not in read("plateau", data, "wandb=null").telemetry
    assert "sinks" not in read("cosine", data).telemetry
    disabled = read("plateau", data, "wandb.init.mode=disabled").telemetry
    assert disabled["sinks"] == "none"
    assert disabled["wandb"]["mode"] == "online"
    again = read("plateau", data, "wandb.init.mode=disabled", "wandb.init.name=a", "wandb.init.mode=offline").telemetry
    assert again["sinks"] == ["wandb"]
    assert read("plateau", data, "wandb.init.mode=disabled", "wandb.init.name=a").telemetry["sinks"] == "none"


# ---------------------------------------------------------------- weights


WEIGHTS = [
    (["data.fidelity_weights.0=1", "data.fidelity_weights.1=1"], {}, None),
    (["data.fidelity_weights.0=1"], {}, None),
    (["data.fidelity_weights.0=4"], {0: 4.0}, None),
    (["data.fidelity_weights.0=4", "data.fidelity_weights.1=0.25"], {0: 4.0, 1: 0.2}, "{0: 4, 1: 0.2}, as"),
    (["data.fidelity_weights.0=0", "data.fidelity_weights.1=1"], {0: 0.1, 1: 1.0}, "{0: 0.1, 1: 1}"),
    (["data.fidelity_weights.0=3", "data.fidelity_weights.7=1"], {0: 3.0}, None),
    (["data.fidelity_weights=null"], {}, None),
]


@pytest.mark.parametrize(("overrides", "weights", "text"), WEIGHTS)
def test_weights_are_those_of_structures_as_the_original_copies_them(
    data: list[str], caplog: pytest.LogCaptureFixture, overrides: list[str], weights: dict[int, float], text: str | None
) -> None:
    config = read("plateau", data, *overrides)
    assert config.data.fidelity_weights == weights
    assert config.data.weights_of == "structure"
    said = lines(caplog).get("data.fidelity_weights")
    assert (said is None) == (text is None)
    assert (text or "") in (said or "")


def test_uniform_sampling_passes_over_weights_and_says_so(data: list[str], caplog: pytest.LogCaptureFixture) -> None:
    uniform = "data.samplers.train.kwargs.sampling_strategy=uniform"
    config = read("plateau", data, "data.fidelity_weights.0=4", uniform)
    assert config.data.fidelity_weights == {}
    assert "sampling_strategy is uniform" in lines(caplog)["data.fidelity_weights"]


def test_weights_can_be_shares_of_fidelities_all_the_same(data: list[str]) -> None:
    weights = ["data.fidelity_weights.0=0.25", "data.weights_of=fidelity"]
    assert read("plateau", data, *weights).data.fidelity_weights == {0: 0.25}


def test_an_epoch_of_no_given_length_goes_through_all_structures(data: list[str]) -> None:
    for number in ("-1", "0", "null"):
        config = read("plateau", data, f"data.samplers.train.kwargs.batches_per_epoch={number}")
        assert config.data.samplers.train.batches_per_epoch is None


# ---------------------------------------------------------------- validation


VALIDATIONS = [
    ([], None),
    (["wandb.log_frequency.val=5000"], 5000),
    (["wandb.log_frequency.val=5000", "log_frequency.val=500"], 500),
    (["val_frequency.mode=epochs"], None),
    (["val_frequency={mode: iterations, every: 1000}"], 1000),
    (["val_frequency={mode: iterations, every: 1000}", "val_frequency.every=70"], 70),
    (["val_frequency={mode: epochs, every: 1}"], None),
    (["val_frequency={mode: epochs, every: 4}"], 12),
    (["log_frequency=null"], None),
]


@pytest.mark.parametrize(("overrides", "every"), VALIDATIONS)
def test_validations_are_as_far_apart_as_they_were(data: list[str], overrides: list[str], every: int | None) -> None:
    assert read("plateau", data, *overrides).log_frequency.val == every


def test_several_epochs_of_unknown_length_between_validations_are_refused(data: list[str]) -> None:
    several = ["val_frequency={mode: epochs, every: 4}", "data.samplers.train.kwargs.batches_per_epoch=-1"]
    with pytest.raises(ConfigError, match=r"val_frequency.every is 4 epochs.*; give log_frequency.val"):
        read("plateau", data, *several)


def test_data_sets_of_their_own_are_for_validation(
    tmp_path: Path, data: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = read("plateau", data, f"data.val_fidelity_datasets.1={tmp_path / '1.h5'}")
    assert config.data.val_fidelity_datasets == {1: str(tmp_path / "1.h5")}
    assert "is heeded here" in lines(caplog)["data.val_fidelity_datasets"]
    same = read("plateau", data, "data.separate_val=false").data
    assert same.val_fidelity_datasets == same.fidelity_datasets


# ---------------------------------------------------------------- schedules


def schedule(data: list[str], text: str, *overrides: str) -> dict[str, Any]:
    """Return the schedule of a file with this section, which is written beside the data."""
    tmp_path = Path(data[0].partition("=")[2]).parent
    content = {**read_yaml(FILES / "iterations.yaml"), "scheduler": None}
    write_yaml(tmp_path / "1.yaml", content)
    (tmp_path / "2.yaml").write_text(f"scheduler: {text}\n")
    found: dict[str, Any] = load([tmp_path / "1.yaml", tmp_path / "2.yaml"], [*data, *overrides]).to_dict()["scheduler"]
    return found


IGNITE = "ignite.handlers.param_scheduler"
TORCH = "torch.optim.lr_scheduler"


def test_a_plateau_is_torchs_with_the_metric_beside_its_arguments(data: list[str]) -> None:
    text = f"{{class: {IGNITE}.ReduceLROnPlateauScheduler, kwargs: {{metric_name: loss, min_delta: 0.1, cooldown: 1}}}}"
    assert schedule(data, text) == {
        "class": f"{TORCH}.ReduceLROnPlateau",
        "kwargs": {"cooldown": 1, "threshold": 0.1, "threshold_mode": "abs"},
        "step": None,
        "metric_name": "loss",
    }


@pytest.mark.parametrize(("name", "step"), [("StepLR", None), ("CosineAnnealingLR", None), ("OneCycleLR", "iteration")])
def test_torchs_schedulers_are_what_they_were(data: list[str], name: str, step: str | None) -> None:
    found = schedule(data, f"{{class: {TORCH}.{name}, kwargs: {{a: 1}}, terminate_on_low_lr: null}}")
    assert found == {"class": f"{TORCH}.{name}", "kwargs": {"a": 1}, "step": step, "metric_name": None}


@pytest.mark.parametrize(
    ("cycle", "overrides", "step"),
    [
        (10, (), "val"),
        (200, (), "val"),
        (201, (), "iteration"),
        (10, ("scheduler.step=iteration",), "iteration"),
        (201, ("scheduler.step=val",), "val"),
        (10, ("trainer.epochs=9",), "iteration"),
    ],
)
def test_a_cycle_no_longer_than_the_training_is_in_validations_and_another_one_in_iterations(
    data: list[str],
    caplog: pytest.LogCaptureFixture,
    cycle: int,
    overrides: tuple[str, ...],
    step: str,
) -> None:
    text = f"{{class: {IGNITE}.LinearCyclicalScheduler, kwargs: {{start_value: 1, end_value: 2, cycle_size: {cycle}}}}}"
    assert schedule(data, text, *overrides)["step"] == step
    said = lines(caplog).get("scheduler", "")
    assert bool(said) == ("scheduler.step" not in "".join(overrides))
    assert not said or ("scheduler.step=iteration" in said) == (step == "val")


@pytest.mark.parametrize(("value", "limit"), [("1e-5", 1e-5), ("0.0", None), ("null", None)])
def test_a_learning_rate_that_ends_the_training_is_a_setting_of_the_trainer(
    data: list[str], value: str, limit: float | None
) -> None:
    assert read("plateau", data, f"scheduler.terminate_on_low_lr={value}").trainer.stop_below_lr == limit


# ---------------------------------------------------------------- models


def test_a_model_is_of_aimnets_classes() -> None:
    definition = read_definition(FILES / "model.yaml")
    assert definition["class"] == "aimnet.models.AIMNet2"
    outputs = definition["kwargs"]["outputs"]
    assert [part["class"] for part in outputs.values()] == [
        f"aimnet.modules.{name}" for name in ("Output", "AtomicShift", "AtomicSum", "LRCoulomb")
    ]
    assert outputs["lrcoulomb"]["kwargs"] == {"key_in": "charges", "key_out": "energy", "method": "simple", "rc": 4.6}


def test_the_size_of_an_embedding_is_aimnets(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("class: aimnet2mult.models.aimnet2.AIMNet2\nkwargs: {max_z: 128, nfeature: 4}\n")
    assert read_definition(tmp_path / "m.yaml")["kwargs"] == {"nfeature": 4}
