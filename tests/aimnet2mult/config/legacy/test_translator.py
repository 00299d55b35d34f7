"""Settings of the original trainer load unchanged, and the notice lists what has no effect."""

from pathlib import Path

import pytest

from aimnet2mult.config.merge import write_yaml
from aimnet2mult.config.schema import load
from aimnet2mult.errors import ConfigError
from support.legacy_settings import FILES, LOGGER, NAMES, notes, notice, read
from telemetry import Settings


def test_every_value_of_a_file_with_a_plateau_is_read(data: list[str]) -> None:
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


def test_every_value_of_a_late_file_is_read(data: list[str]) -> None:
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


def test_missing_keys_get_the_defaults_of_the_original(data: list[str]) -> None:
    config = read("iterations", data)
    assert config.fidelity_offset == 200
    assert config.trainer.clip_grad_value is None
    assert (config.data.samplers.val.batch_size, config.data.samplers.val.batch_mode) == (64, "atoms")
    assert config.optimizer.param_groups["embeddings"] == {"re": "afv.weight", "lr": 5e-5, "weight_decay": 0.0}
    # As in the original, kwargs of the defaults are kept for another class: this is not AdamW's default of 0.01.
    assert read("plateau", data).optimizer.kwargs["weight_decay"] == 1e-8


def test_exponents_without_a_decimal_point_are_numbers(data: list[str]) -> None:
    assert read("cosine", data).optimizer.kwargs["weight_decay"] == 1e-8
    assert read("plateau", data).optimizer.kwargs["eps"] == 1e-8


@pytest.mark.parametrize("name", ["plateau", "cosine", "iterations"])
def test_a_translated_file_reads_back_equal(
    tmp_path: Path, data: list[str], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    config = read(name, data)
    write_yaml(tmp_path / "train.yaml", config.to_dict())
    caplog.clear()
    assert load([tmp_path / "train.yaml"]) == config
    assert not [record for record in caplog.records if record.name == LOGGER]
    # A batch script that is run again with --resume passes the original file again.
    assert load([tmp_path / "train.yaml", FILES / f"{name}.yaml"], [] if name != "plateau" else NAMES) == config


def test_losses_of_aimnet_are_replaced(data: list[str]) -> None:
    loss = read("cosine", data).loss
    assert loss.cls == "aimnet2mult.train.loss.MTLoss"
    assert loss.kwargs["components"]["energy"]["fn"] == "aimnet2mult.train.loss.energy_loss_fn"
    assert loss.kwargs["components"]["forces"]["fn"] == "aimnet2mult.train.loss.peratom_loss_fn"


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


# ---------------------------------------------------------------- the notice


def test_keys_without_effect_are_listed_once_with_their_replacement(
    data: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    read("plateau", data)
    read("plateau", data)
    found = notes(caplog)
    assert set(found) == {
        "metrics",
        "wandb.watch_model",
        "checkpoint.dirname",
        "checkpoint.filename_prefix",
        "data.ddp_load_full_dataset",
        "scheduler.kwargs.min_lr",
    }
    assert "telemetry.units.energy=eV" in found["metrics"]
    assert "train/grad_norm" in found["wandb.watch_model"]
    assert "--telemetry-dir" in found["checkpoint.dirname"]
    assert "plateau.yaml: translated from the format of the original trainer" in notice(caplog)
    assert "docs/how-to/moving-over.md" in notice(caplog)


def test_null_is_not_listed(data: list[str], caplog: pytest.LogCaptureFixture) -> None:
    null = ["metrics=null", "wandb.watch_model=null", "checkpoint.dirname=null", "checkpoint.filename_prefix=null"]
    config = read("iterations", data, *null, "val_frequency=null", "data.val_fidelity_datasets=null")
    assert set(notes(caplog)) == {"optimizer.grad_clip", "scheduler"}
    assert config.data.val_fidelity_datasets == {}


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("checkpoint.kwargs.create_dir=true", "checkpoint.kwargs", "create_dir cannot be set"),
        ("checkpoint=null", "checkpoint", "checkpoint.keep"),
        ("optimizer.grad_clip.max_norm=2", "optimizer.grad_clip", "trainer.clip_grad_norm"),
        ("optimizer.force_no_train=['afv']", "optimizer.force_no_train", "takes effect here"),
    ],
)
def test_a_key_with_another_effect_is_listed(
    data: list[str], caplog: pytest.LogCaptureFixture, override: str, key: str, text: str
) -> None:
    read("plateau", data, override)
    assert text in notes(caplog)[key]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.grad_clip.value=1", r"unknown key 'optimizer.grad_clip.value'"),
        ("trainer.evaluator=x", r"unknown key 'trainer.evaluator'"),
        ("project_name='???'", r"project_name is \?\?\? in .*plateau.yaml; set it, for example project_name="),
    ],
)
def test_unknown_keys_and_placeholders_are_rejected(data: list[str], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("plateau", data, override)


def test_the_adaptive_loss_keeps_its_settings(data: list[str]) -> None:
    overrides = [
        "loss.class=aimnet2mult.train.loss.MTAdaWLoss",
        "loss.kwargs.eta=0.01",
        *(f"loss.kwargs.components.{name}.scale=2.5" for name in ("energy", "forces", "charges", "spin_charges")),
    ]
    loss = read("plateau", data, *overrides).loss
    assert loss.cls == "aimnet2mult.train.adaptive_loss.MTAdaWLoss"
    assert loss.kwargs["eta"] == 0.01
    assert loss.kwargs["components"]["energy"]["scale"] == 2.5


@pytest.mark.parametrize(("value", "noted"), [("0.01", True), ("0.0", False), ("null", False)])
def test_the_penalty_of_missing_labels_is_listed_as_without_effect(
    data: list[str], caplog: pytest.LogCaptureFixture, value: str, noted: bool
) -> None:
    key = "loss.kwargs.components.charges.kwargs.missing_label_regularization"
    kwargs = read("plateau", data, f"{key}={value}").loss.kwargs["components"]["charges"]["kwargs"]
    assert kwargs == {"key_true": "charges", "key_pred": "charges"}
    text = notes(caplog).get(key, "")
    assert ("unlabeled structures have no effect on a loss" in text) == noted
