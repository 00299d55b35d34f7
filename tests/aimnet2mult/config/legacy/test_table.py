"""Each key and class of the original is the same here, translated, in the notice or an error, and in the table."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from aimnet2mult.config.import_path import load_object
from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.classes import ABSENT, translate_loss, translate_module
from aimnet2mult.config.legacy.rule import Rule
from aimnet2mult.config.legacy.table import all_rules
from aimnet2mult.config.legacy.translator import RULES
from aimnet2mult.config.merge import BY_FIDELITY, DEFAULTS, OPEN_SECTIONS, flatten, read_yaml, write_yaml
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError
from aimnet2mult.metrics.statistics import MetricInfo
from aimnet2mult.train.optimizer import build_scheduler
from aimnet2mult.train.validation_metrics import ValidationMetrics
from support.legacy_keys import CLASSES, KEYS, SCHEDULERS
from support.legacy_settings import notes

CURRENT = {name for name, _ in flatten(read_yaml(DEFAULTS))}
OPEN = (*OPEN_SECTIONS, *BY_FIDELITY)

CHANGES: dict[str, Any] = {
    "metrics": {"metrics.kwargs.cfg.energy.scale": 1.0},
    "wandb.watch_model": {"wandb.watch_model.log": "all"},
    "loss.kwargs.components.*.kwargs.missing_label_regularization": {
        "loss.kwargs.components.forces.kwargs.missing_label_regularization": 0.1
    },
    "optimizer.grad_clip.max_norm": 1.0,
    "scheduler.kwargs.metric_name": "val_E_rmse",
    "log_frequency.train": 10,
    "use_base_model": True,
    "optimizer.{force_no_train,force_train}": {"optimizer.force_no_train": ["afv"]},
    "checkpoint": None,
    "checkpoint.kwargs.*": {"checkpoint.kwargs.create_dir": True},
    "data.val_fidelity_datasets": {"data.val_fidelity_datasets": {0: "0.h5"}},
    "data.x": ["coord", "numbers"],
    "data.sae.energy.file": "sae.yaml",
    "data.loaders.*.pin_memory": {"data.loaders.val.pin_memory": True},
    "data.fidelity_weights": {"data.fidelity_weights": {0: 4.0}},
    "data.samplers.train.kwargs.shuffle": False,
    "data.sae.energy.mode": "logratio",
    "data.ddp_load_full_dataset": False,
    "data.samplers.val.kwargs.sampling_strategy": "weighted",
    "data.samplers.val.kwargs.batches_per_epoch": 100,
    "ignite.handlers.*": {
        "scheduler": {"class": "ignite.handlers.CosineAnnealingScheduler", "kwargs": {"cycle_size": 5}}
    },
    "scheduler.kwargs.mode": "min",
    "scheduler.kwargs.min_delta": 1e-4,
    "scheduler.kwargs.min_lr": 1e-6,
    "scheduler.kwargs.{trainer,verbose,save_history}": {"scheduler.kwargs.save_history": True},
    "val_frequency.{mode,every}": {"val_frequency": {"mode": "iterations", "every": 7}},
    "wandb": None,
    "wandb.log_frequency.val": 7,
    "wandb.init.{project,entity,name,notes,group,tags}": {"wandb.init.group": "g"},
    "wandb.init.*": {"wandb.init.anonymous": "allow"},
}
"""A value for each key of the table that is not one of `KEYS`, or whose value there would not be noticed."""


def tree(*changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings with all keys of the original, and changes of some."""
    result: dict[str, Any] = {}
    for change in (KEYS, {"log_frequency.val": None}, *changes):
        for key, value in change.items():
            nested.put(result, key, value)
    return result


def read(tmp_path: Any, data: list[str], *changes: dict[str, Any]) -> Config:
    write_yaml(tmp_path / "train.yaml", tree(*changes))
    return load([tmp_path / "train.yaml"], data)


def matches(rule: Rule, key: str) -> bool:
    """Return whether a rule is about a key, or about the section that contains it."""
    pattern = re.escape(rule.name).replace(r"\*", r"\w+")
    pattern = re.sub(r"\\{([^}]*)\\}", lambda found: f"({found[1].replace(',', '|')})", pattern)
    return re.fullmatch(rf"{pattern}(\..*)?", key) is not None


def test_every_key_of_the_original_is_the_same_here_or_in_the_table() -> None:
    known = {*CURRENT, *(key for key in KEYS if key.startswith(tuple(f"{section}." for section in OPEN)))}
    unexplained = [key for key in KEYS if key not in known and not any(matches(rule, key) for rule in RULES)]
    assert unexplained == []


def test_no_key_is_in_the_table_twice() -> None:
    names = [rule.name for rule in all_rules()]
    assert len(set(names)) == len(names)


def test_the_notice_lists_only_keys_of_the_table(
    tmp_path: Any, data: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    read(tmp_path, data)
    listed = [rule for rule in RULES if rule.outcome == "notice"]
    assert set(notes(caplog)) >= {"metrics", "wandb.watch_model", "checkpoint.dirname"}
    assert [key for key in notes(caplog) if not any(matches(rule, key) for rule in listed)] == []


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if not re.search(" |Plateau", rule.name)], ids=lambda r: r.name
)
def test_the_outcome_in_the_table_is_what_happens(
    tmp_path: Any, data: list[str], caplog: pytest.LogCaptureFixture, rule: Rule
) -> None:
    value = CHANGES[rule.name] if rule.name in CHANGES else KEYS[rule.name]
    change = value if isinstance(value, dict) else {rule.name: value}
    if rule.outcome == "error":
        with pytest.raises(ConfigError, match=re.escape(rule.name)):
            read(tmp_path, data, change)
        return
    read(tmp_path, data, change)
    (key,) = change
    noted = any(key.startswith(name) for name in notes(caplog))
    assert noted == (rule.outcome == "notice")


@pytest.mark.parametrize("path", CLASSES)
def test_a_class_of_the_original_exists_or_is_an_error_with_a_remedy(path: str) -> None:
    translate = translate_module if ".loss." not in path else lambda name: translate_loss(name, "loss.class")
    if path in ABSENT:
        with pytest.raises(ConfigError, match=re.escape(ABSENT[path])):
            translate(path)
    else:
        assert load_object(translate(path), "class", "loss" if ".loss." in path else "model")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_scheduler_examples_of_the_original_run(tmp_path: Any, data: list[str], name: str) -> None:
    path, kwargs, lowest = SCHEDULERS[name]
    scheduler = {"class": path, "kwargs": kwargs, "terminate_on_low_lr": lowest}
    config = read(tmp_path, data, {"scheduler": scheduler})
    assert config.trainer.stop_below_lr == (lowest or None)
    assert config.scheduler is not None
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4)
    section = {
        "class": config.scheduler.cls,
        "kwargs": config.scheduler.kwargs,
        "step": config.scheduler.step,
        "metric_name": config.scheduler.metric_name,
    }
    metrics = ValidationMetrics(known={"loss": MetricInfo(text="loss", better="lower")}, available=("loss",))
    schedule = build_scheduler(optimizer, section, metrics=metrics)
    optimizer.step()
    for _ in range(3):
        schedule.step_iteration()
    schedule.step_validation({"loss": 1.0})
    schedule.step_epoch()
    assert 0 < optimizer.param_groups[0]["lr"] <= 1e-4
