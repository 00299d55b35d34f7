"""Translation of the settings: renamed keys, and sections that need more than renaming."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, NamedTuple

from aimnet2mult.config.legacy import nested
from aimnet2mult.config.legacy.data import DataTranslator
from aimnet2mult.config.legacy.detect import LEGACY_KEYS, is_legacy
from aimnet2mult.config.legacy.loss import LossTranslator
from aimnet2mult.config.legacy.nested import MISSING, Tree
from aimnet2mult.config.legacy.rule import Outcome, Rule
from aimnet2mult.config.legacy.samplers import SamplerTranslator
from aimnet2mult.config.legacy.scheduler import SchedulerTranslator
from aimnet2mult.config.legacy.validation import ValidationTranslator
from aimnet2mult.config.legacy.wandb import WandbTranslator
from aimnet2mult.errors import ConfigError

__all__ = ["NO_EFFECT", "RENAMED", "LegacyConfigTranslator", "log_notice"]

logger = logging.getLogger(__name__)

DEFAULTS: Tree = {
    "fidelity_offset": 200,
    "data": {
        "weights_of": "structure",
        "samplers": {
            "train": {"batch_size": 32, "batch_mode": "atoms", "batches_per_epoch": 100},
            "val": {"batch_size": 64, "batch_mode": "atoms"},
        },
    },
    "optimizer": {
        "kwargs": {"lr": 1.0e-4},
        "param_groups": {"embeddings": {"re": "afv.weight", "lr": 5.0e-5, "weight_decay": 0.0}},
    },
    "trainer": {"epochs": 10, "clip_grad_value": None},
}
"""Defaults of the original that differ from the current ones."""

CLIP_NORM = "not every version of the original trainer read it"
KEEP_ALL = 1_000_000
"""Replaces ``n_saved: null``; more checkpoints than any run writes."""


class Renamed(NamedTuple):
    """The current key of an original one."""

    key: str
    convert: Callable[[Any], Any] = lambda value: value
    note: str = ""
    """What changes besides the name."""
    outcome: Outcome = "translated"


RENAMED = {
    "data.samplers.train.kwargs.batch_size": Renamed("data.samplers.train.batch_size"),
    "data.samplers.train.kwargs.batch_mode": Renamed("data.samplers.train.batch_mode"),
    "data.samplers.train.kwargs.batches_per_epoch": Renamed(
        "data.samplers.train.batches_per_epoch", lambda n: None if isinstance(n, int) and n <= 0 else n, "-1 is `null`"
    ),
    "data.samplers.val.kwargs.batch_size": Renamed("data.samplers.val.batch_size"),
    "data.samplers.val.kwargs.batch_mode": Renamed("data.samplers.val.batch_mode"),
    "optimizer.grad_clip.max_norm": Renamed("trainer.clip_grad_norm", note=CLIP_NORM, outcome="notice"),
    "scheduler.kwargs.metric_name": Renamed("scheduler.metric_name", note="always a validation metric"),
    "scheduler.terminate_on_low_lr": Renamed("trainer.stop_below_lr", lambda lr: lr or None, "0 is `null`"),
    "checkpoint.kwargs.n_saved": Renamed("checkpoint.keep", lambda n: KEEP_ALL if n is None else n, "`null`: all"),
    "checkpoint.save_best": Renamed(
        "checkpoint.best",
        lambda enabled: "loss" if enabled else None,
        "true is `loss`: the best weights are `RUN/checkpoints/best.pt`, besides the newest checkpoints",
    ),
    "wandb.log_frequency.train": Renamed("telemetry.every"),
    "log_frequency.train": Renamed("telemetry.every"),
}
"""By original key; of two original keys with the same current key, the last one given wins."""

NO_EFFECT = {
    "metrics": "the set of metrics is fixed, in kcal/mol and e; change units with telemetry.units.energy=eV",
    "wandb.watch_model": "the gradient norm is recorded as train/grad_norm; there are no histograms",
    "checkpoint.dirname": "checkpoints are in the run folder; --telemetry-dir sets where run folders are created",
    "checkpoint.filename_prefix": "checkpoints are named by iteration; --save FILE writes the final weights",
    "use_base_model": "the model of a single fidelity is always the one in model.yaml",
}
"""Original keys without effect, and their replacements."""

TAKES_EFFECT = "takes effect here, unlike in the original trainer; remove it for the original behavior"
CHECKPOINT_OFF = "checkpoints are always written; checkpoint.keep sets how many are kept"
CHECKPOINT_FIXED = "cannot be set; checkpoints are written such that a run can be resumed"

SECTIONS = (
    *(DataTranslator, SamplerTranslator, LossTranslator),
    *(SchedulerTranslator, ValidationTranslator, WandbTranslator),
)

RULES = (
    *(Rule(old, new.outcome, f"`{new.key}`{new.note and f'; {new.note}'}") for old, new in RENAMED.items()),
    *(Rule(key, "notice", text) for key, text in NO_EFFECT.items()),
    Rule("optimizer.{force_no_train,force_train}", "notice", TAKES_EFFECT),
    Rule("checkpoint", "notice", f"null: {CHECKPOINT_OFF}"),
    Rule("checkpoint.kwargs.require_empty", "translated", "no effect"),
    Rule("checkpoint.kwargs.*", "notice", CHECKPOINT_FIXED),
    *(rule for section in SECTIONS for rule in section.rules),
)
"""What becomes of all settings that are not the same here."""

MAPPINGS = ("scheduler.kwargs", "loss.kwargs.components", "checkpoint.kwargs", "wandb", "wandb.init")
"""Keys whose values the translation takes apart."""


class LegacyConfigTranslator:
    """Translate layers of settings, of which at least one is in the original format, to the current keys.

    Current keys are left alone, so that both formats can be mixed, for example a file of the original with overrides in
    the current format. Call ``translate_layer`` for each layer in order and ``finish`` once for the merged result.
    """

    defaults = DEFAULTS
    """Settings to merge over the current defaults, below all layers."""

    def __init__(self, sources: list[str]) -> None:
        self._sources = sources
        self._notes: dict[str, str] = {}
        *self._sections, self._wandb = [section(self._notes) for section in SECTIONS]

    @classmethod
    def for_layers(cls, layers: Iterable[tuple[str, Tree]]) -> LegacyConfigTranslator | None:
        """Return a translator for named layers, or None if no layer is in the original format."""
        sources = [name for name, layer in layers if is_legacy(layer)]
        return cls(sources) if sources else None

    @staticmethod
    def keeps_kwargs(lower: object, upper: object) -> bool:
        """Return whether a layer that changes a class keeps the kwargs of lower layers, as in the original trainer.

        Exceptions are schedulers that have no arguments in common, with which the original failed.
        """
        return _family(lower) == _family(upper)

    def translate_layer(self, layer: Tree) -> Tree:
        """Return a copy of a layer in current keys.

        Raises:
            ConfigError: A setting cannot be translated.
        """
        layer = deepcopy(layer)
        for key in MAPPINGS:
            value = nested.get(layer, key)
            if value not in (MISSING, None) and not isinstance(value, dict):
                raise ConfigError(f"{key} is {value!r}: expected a mapping")
        for section in self._sections:
            section.translate(layer)
        self._remove_ineffective(layer)
        for old, new in RENAMED.items():
            if (value := nested.pop(layer, old)) is not MISSING:
                nested.put(layer, new.key, new.convert(value))
        self._wandb.translate(layer)
        self._translate_checkpoint(layer)
        _remove_empty(layer)
        return layer

    def finish(self, merged: Tree) -> Tree:
        """Return a copy of the merged layers with the settings that depend on several keys; log the notice.

        Raises:
            ConfigError: A setting cannot be translated, or a placeholder was not filled in.
        """
        for name in ("run_name", "project_name"):
            if merged[name] == "???":
                raise ConfigError(f"{name} is ??? in {self._sources[0]}; set it, for example {name}=wb97m")
        merged = deepcopy(merged)
        # The original allows 0 for a single fidelity, where the offset is not used.
        merged["fidelity_offset"] = merged["fidelity_offset"] or DEFAULTS["fidelity_offset"]
        for section in (*self._sections, self._wandb):
            section.finish(merged)
        for name in ("force_no_train", "force_train"):
            if merged["optimizer"][name]:
                self._notes[f"optimizer.{name}"] = TAKES_EFFECT
        log_notice(self._notice())
        return merged

    def _notice(self) -> str:
        sources = ", ".join(self._sources)
        lines = [f"{sources}: translated from the format of the original trainer (docs/how-to/moving-over.md)"]
        if self._notes:
            lines.append("These settings have no effect, or a different one:")
        return "\n".join([*lines, *(f"  {key}: {note}" for key, note in self._notes.items())])

    def _remove_ineffective(self, layer: Tree) -> None:
        for key, replacement in NO_EFFECT.items():
            if nested.pop(layer, key) not in (MISSING, None):
                self._notes[key] = replacement
        if nested.has(layer, "optimizer.grad_clip.max_norm"):
            self._notes["optimizer.grad_clip"] = f"takes effect here, as trainer.clip_grad_norm; {CLIP_NORM}"

    def _translate_checkpoint(self, layer: Tree) -> None:
        if nested.get(layer, "checkpoint") is None:
            self._notes["checkpoint"] = CHECKPOINT_OFF
            del layer["checkpoint"]
        rest = nested.pop(layer, "checkpoint.kwargs")
        if rest is not MISSING and (names := set(rest or {}) - {"require_empty"}):
            self._notes["checkpoint.kwargs"] = f"{', '.join(sorted(names))} {CHECKPOINT_FIXED}"


@functools.cache
def log_notice(notice: str) -> None:
    """Log a notice once per process, because the settings are loaded several times."""
    logger.warning(notice)


def _family(path: object) -> str:
    """Return which schedulers have arguments in common with a class."""
    return next((name for name in ("ReduceLROnPlateau", "ignite.") if name in str(path)), "")


def _remove_empty(layer: Tree) -> None:
    """Remove original keys that are null, and sections that the translation has emptied."""
    for key in ("data.samplers.train.kwargs", "data.samplers.val.kwargs", "wandb.init", "wandb", "val_frequency"):
        if nested.get(layer, key) in (None, {}):
            nested.pop(layer, key)
    for key in (*LEGACY_KEYS, "optimizer.grad_clip"):
        if nested.get(layer, key) is None:
            nested.pop(layer, key)
