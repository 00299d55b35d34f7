"""The format of the original trainer (`aimnet2mult` before this one): the one file that knows it.

Its settings, its models' definitions and its weights are turned into ours, so that all else knows ours alone.
What has the same meaning is translated without a word; what cannot be had is named in one notice, with what to use
instead; what would change the training unseen is refused. Without torch.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from aimnet2mult.errors import ConfigError

__all__ = ["LegacyConfigTranslator", "translated_definition", "translated_weights"]

logger = logging.getLogger(__name__)

Tree = dict[str, Any]

MISSING = object()

# Where the original's defaults differ from ours. It clips no gradients.
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

# Keys that the original alone has.
MARKS = (
    "wandb",
    "metrics",
    "val_frequency",
    "data.x",
    "data.separate_val",
    "data.ddp_load_full_dataset",
    "data.sae.energy.mode",
    "data.samplers.train.kwargs",
    "data.samplers.val.kwargs",
    "optimizer.grad_clip",
    "scheduler.terminate_on_low_lr",
    "scheduler.kwargs.metric_name",
    "checkpoint.dirname",
    "checkpoint.filename_prefix",
    "checkpoint.save_best",
    "checkpoint.kwargs",
    "log_frequency.train",
)
# One of them may be a mistake in a file of ours, which is better answered than understood.
ENOUGH_MARKS = 2

RENAMED = {
    "data.samplers.train.kwargs.batch_size": "data.samplers.train.batch_size",
    "data.samplers.train.kwargs.batch_mode": "data.samplers.train.batch_mode",
    "data.samplers.train.kwargs.batches_per_epoch": "data.samplers.train.batches_per_epoch",
    "data.samplers.val.kwargs.batch_size": "data.samplers.val.batch_size",
    "data.samplers.val.kwargs.batch_mode": "data.samplers.val.batch_mode",
    "optimizer.grad_clip.max_norm": "trainer.clip_grad_norm",
    "scheduler.kwargs.metric_name": "scheduler.metric_name",
    "scheduler.terminate_on_low_lr": "trainer.stop_below_lr",
    "checkpoint.kwargs.n_saved": "checkpoint.keep",
    "checkpoint.save_best": "checkpoint.best",
    # Of those that are the same here the last one counts.
    "wandb.log_frequency.train": "telemetry.every",
    "log_frequency.train": "telemetry.every",
}
# What some of the values are in our terms.
VALUES: dict[str, Callable[[Any], Any]] = {
    "data.samplers.train.batches_per_epoch": lambda number: number if _above_0(number) else None,
    "trainer.stop_below_lr": lambda limit: limit or None,
    "checkpoint.keep": lambda number: 1_000_000 if number is None else number,
    "checkpoint.best": lambda wanted: "loss" if wanted else None,
}
INDEXED = ("fidelity_datasets", "val_fidelity_datasets", "fidelity_weights", "sae.energy.files")
W_AND_B = ("project", "entity", "name", "notes", "group", "tags")
MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}

# What has no effect, and what to use instead; where it is null, nothing is to be said.
WITHOUT_EFFECT = {
    "metrics": "there is one set of metrics, in kcal/mol and e; telemetry.units.energy=eV for other units",
    "wandb.watch_model": "the norm of the gradient is train/grad_norm; there are no histograms",
    "checkpoint.dirname": "checkpoints are in the run's folder; --telemetry-dir says where that is made",
    "checkpoint.filename_prefix": "checkpoints are named by their iteration; --save FILE is for the final weights",
}
# Values that are as it is here; of others it is said how it is here.
ONLY = {
    "data.ddp_load_full_dataset": (True, "every rank loads all data, and takes its share of each batch"),
    "data.samplers.val.kwargs.sampling_strategy": ("uniform", "each structure counts once in a validation"),
    "data.samplers.val.kwargs.batches_per_epoch": (-1, "a validation goes through all its structures"),
}
# These values alone can be had.
REFUSED = {
    "data.samplers.train.kwargs.shuffle": (True, "training data are always shuffled; leave it out"),
    "data.sae.energy.mode": ("linreg", "energies are shifted by reference energies only; leave it out"),
}
INPUTS = ("coord", "numbers", "charge", "mult")
# Steps that torch itself counts in iterations.
PER_ITERATION = ("torch.optim.lr_scheduler.OneCycleLR", "torch.optim.lr_scheduler.CyclicLR")


class LegacyConfigTranslator:
    """Turns layers of settings into our keys, where at least one of them is in the original's format.

    Keys of ours stay what they are, so that both can be used together: an override of ours beside a file of the
    original, say. As there, a class that is changed keeps the kwargs of lower layers.
    """

    defaults = DEFAULTS
    """To be laid over our own defaults, below all layers."""

    def __init__(self, sources: list[str]) -> None:
        self._sources = sources
        self._notes: dict[str, str] = {}
        self._strategy = "weighted"
        self._validations: Tree = {"mode": None, "every": None}
        self._separate = True
        self._sinks: object = None

    @classmethod
    def among(cls, layers: Iterable[tuple[str, Tree]]) -> LegacyConfigTranslator | None:
        """Return one for these layers, given with their names; None where none is in the original's format."""
        sources = [name for name, layer in layers if sum(_has(layer, mark) for mark in MARKS) >= ENOUGH_MARKS]
        return cls(sources) if sources else None

    def translated(self, layer: Tree) -> Tree:
        """Return a layer in our keys; to be called for each, in their order. Raises ConfigError."""
        layer = deepcopy(layer)
        self._translate_data(layer)
        self._translate_samplers(layer)
        self._translate_scheduler(layer)
        self._translate_validations(layer)
        _translate_losses(layer)
        for name, instead in WITHOUT_EFFECT.items():
            if _take(layer, name) not in (MISSING, None):
                self._notes[name] = instead
        if _has(layer, "optimizer.grad_clip.max_norm"):
            self._notes["optimizer.grad_clip"] = "not every version read it; here it is trainer.clip_grad_norm"
        for old, new in RENAMED.items():
            if (value := _take(layer, old)) is not MISSING:
                _put(layer, new, VALUES.get(new, _same)(value))
        self._translate_wandb(layer)
        self._drop_rest(layer)
        return layer

    def settled(self, merged: Tree) -> Tree:
        """Return what the layers add up to, with all that depends on several settings; give the notice.

        Raises ConfigError.
        """
        for name in ("run_name", "project_name"):
            if merged[name] == "???":
                raise ConfigError(f"{name} is ??? in {self._sources[0]}: give it, as in {name}=wb97m")
        merged = deepcopy(merged)
        # With one fidelity 0 is allowed there, and never used.
        merged["fidelity_offset"] = merged["fidelity_offset"] or DEFAULTS["fidelity_offset"]
        self._settle_weights(merged["data"])
        if not self._separate:
            merged["data"]["val_fidelity_datasets"] = merged["data"]["fidelity_datasets"]
        self._settle_validations(merged)
        self._settle_scheduler(merged)
        self._name_what_is_heeded(merged)
        if self._sinks and _find(merged, "telemetry.sinks") is MISSING:
            _put(merged, "telemetry.sinks", self._sinks)
        _say(self._notice())
        return merged

    def _notice(self) -> str:
        sources = ", ".join(self._sources)
        lines = [f"{sources}: in the format of the original trainer, translated (docs/how-to/moving-over.md)"]
        if self._notes:
            lines.append("what has no effect here, or another one:")
        return "\n".join([*lines, *(f"  {name}: {note}" for name, note in self._notes.items())])

    def _translate_data(self, layer: Tree) -> None:
        for section in INDEXED:
            _translate_indices(layer, f"data.{section}")
        names = _take(layer, "data.x")
        if isinstance(names, list) and (others := set(map(str, names)) - {*INPUTS}):
            raise ConfigError(f"data.x has {', '.join(sorted(others))}; a model is given {', '.join(INPUTS)}")
        if isinstance(names, list) and (lacking := [name for name in INPUTS if name not in names]):
            self._notes["data.x"] = f"{', '.join(lacking)} will be read where the data sets have it"
        if (separate := _take(layer, "data.separate_val")) is not MISSING:
            self._separate = separate is not False
        for part in ("train", "val"):
            # As it is by itself on a GPU; elsewhere torch would complain.
            if _find(layer, f"data.loaders.{part}.pin_memory") is True:
                _take(layer, f"data.loaders.{part}.pin_memory")

    def _translate_samplers(self, layer: Tree) -> None:
        for name, (allowed, why) in REFUSED.items():
            if (value := _take(layer, name)) not in (MISSING, None, allowed):
                raise ConfigError(f"{name} is {value!r}: {why}")
        for name, (allowed, instead) in ONLY.items():
            if _take(layer, name) not in (MISSING, None, allowed):
                self._notes[name] = instead
        _take(layer, "data.samplers.val.kwargs.shuffle")
        name = "data.samplers.train.kwargs.sampling_strategy"
        if (strategy := _take(layer, name)) not in (MISSING, None):
            if strategy not in ("weighted", "uniform"):
                raise ConfigError(f"{name} is {strategy!r}: expected weighted or uniform")
            self._strategy = strategy

    def _translate_scheduler(self, layer: Tree) -> None:
        scheduler = layer.get("scheduler")
        if not isinstance(scheduler, dict) or not isinstance(path := scheduler.get("class"), str):
            return
        if path in PER_ITERATION:
            scheduler.setdefault("step", "iteration")
        if not path.startswith("ignite."):
            return
        kwargs = scheduler.get("kwargs") or {}
        kwargs.pop("save_history", None)
        if path.endswith(".ReduceLROnPlateauScheduler"):
            scheduler["class"] = "torch.optim.lr_scheduler.ReduceLROnPlateau"
            for name in ("trainer", "verbose"):
                kwargs.pop(name, None)
            if kwargs.pop("min_lr", None):
                self._notes["scheduler.kwargs.min_lr"] = (
                    "ignite passes over it, and so is done here; an override counts"
                )
            if "min_delta" in kwargs:
                kwargs |= {"threshold": kwargs.pop("min_delta"), "threshold_mode": "abs"}

    def _translate_validations(self, layer: Tree) -> None:
        """Find out how often is validated: of three keys for it the first one counts."""
        for name in ("log_frequency", "val_frequency"):
            if _find(layer, name) is None:
                _take(layer, name)
        chosen = _take(layer, "wandb.log_frequency.val")
        given = {"mode": _take(layer, "val_frequency.mode"), "every": _take(layer, "val_frequency.every")}
        given = {key: value for key, value in given.items() if value is not MISSING}
        if given:
            self._validations |= given
            mode, every = self._validations["mode"], self._validations["every"]
            if every is None and mode == "iterations":
                raise ConfigError("val_frequency has no 'every': give log_frequency.val, a number of iterations")
            chosen = every if mode == "iterations" else None
        if chosen is not MISSING and _find(layer, "log_frequency.val") in (MISSING, None):
            _put(layer, "log_frequency.val", chosen)

    def _translate_wandb(self, layer: Tree) -> None:
        if _find(layer, "wandb") is None:
            self._sinks = None
        for name in W_AND_B:
            if (value := _take(layer, f"wandb.init.{name}")) not in (MISSING, None):
                _put(layer, f"telemetry.wandb.{name}", value)
                self._sinks = self._sinks or ["wandb"]
        mode = _take(layer, "wandb.init.mode")
        if mode in MODES:
            _put(layer, "telemetry.wandb.mode", MODES[mode])
            self._sinks = ["wandb"]
        elif mode not in (MISSING, None):
            if mode != "disabled":
                raise ConfigError(f"wandb.init.mode is {mode!r}: expected online, offline or disabled")
            self._sinks = "none"
        for name, value in list((_find(layer, "wandb.init", {}) or {}).items()):
            _take(layer, f"wandb.init.{name}")
            if value is not None:
                self._notes[f"wandb.init.{name}"] = "`telemetry sinks` lists what the sink takes"

    def _drop_rest(self, layer: Tree) -> None:
        """Take out what is empty now, or says nothing here."""
        if _find(layer, "checkpoint") is None:
            self._notes["checkpoint"] = "checkpoints are always written; checkpoint.keep is how many are kept"
            del layer["checkpoint"]
        rest = _take(layer, "checkpoint.kwargs")
        if rest is not MISSING and (names := set(rest or {}) - {"require_empty"}):
            self._notes["checkpoint.kwargs"] = (
                f"{', '.join(sorted(names))}: checkpoints are written as a resume needs them"
            )
        for name in ("data.samplers.train.kwargs", "data.samplers.val.kwargs", "wandb.init", "wandb", "val_frequency"):
            if _find(layer, name) in (None, {}):
                _take(layer, name)
        for name in (*MARKS, "optimizer.grad_clip"):
            if _find(layer, name) is None:
                _take(layer, name)

    def _settle_weights(self, data: Tree) -> None:
        """Let the weights be what the original drew by: ten copies of a structure for a weight of 1, at least one."""
        weights, fidelities = data["fidelity_weights"], data["fidelity_datasets"]
        if data["weights_of"] != "structure" or not isinstance(weights, dict) or not isinstance(fidelities, dict):
            return
        if not all(_is_weight(weight) for weight in weights.values()):
            return
        drawn = {index: max(1, int(weight * 10)) / 10 for index, weight in weights.items() if index in fidelities}
        alike = len({drawn.get(index, 1.0) for index in fidelities}) <= 1
        if self._strategy == "uniform" and not alike:
            self._notes["data.fidelity_weights"] = "without effect, as sampling_strategy is uniform; weighted uses them"
        elif not alike and any(drawn[index] != weights[index] for index in drawn):
            exact = ", ".join(f"{index}: {weight:g}" for index, weight in drawn.items())
            self._notes["data.fidelity_weights"] = f"{{{exact}}}, as the original rounds them"
        data["fidelity_weights"] = {} if alike or self._strategy == "uniform" else drawn

    def _name_what_is_heeded(self, merged: Tree) -> None:
        """Say what the original has a key for, and passes over."""
        heeded = {f"optimizer.{name}": merged["optimizer"][name] for name in ("force_no_train", "force_train")}
        if self._separate:
            heeded["data.val_fidelity_datasets"] = merged["data"]["val_fidelity_datasets"]
        for name in (name for name, value in heeded.items() if value):
            self._notes[name] = "is heeded here, which it was not by the original; leave it out to have the same"

    def _settle_validations(self, merged: Tree) -> None:
        every = self._validations["every"]
        if self._validations["mode"] != "epochs" or every in (None, 1) or merged["log_frequency"]["val"] is not None:
            return
        batches = merged["data"]["samplers"]["train"]["batches_per_epoch"]
        if not isinstance(batches, int) or not isinstance(every, int):
            raise ConfigError(
                f"val_frequency.every is {every!r} epochs, of a length that is not known before the data are"
                " read; give log_frequency.val, a number of iterations"
            )
        merged["log_frequency"]["val"] = every * batches

    def _settle_scheduler(self, merged: Tree) -> None:
        """Decide what steps of ignite's schedulers are, where it is not said: its versions differ."""
        scheduler, epochs = merged["scheduler"], merged["trainer"]["epochs"]
        if not isinstance(scheduler, dict) or not str(scheduler.get("class")).startswith("ignite."):
            return
        if scheduler.get("step"):
            return
        cycle = (scheduler.get("kwargs") or {}).get("cycle_size")
        few = isinstance(cycle, int) and isinstance(epochs, int) and cycle <= epochs
        scheduler["step"], other = ("val", "iteration") if few else ("iteration", "val")
        unit = {"val": "a validation", "iteration": "an iteration"}
        self._notes["scheduler"] = (
            f"takes a step after {unit[scheduler['step']]}, as its cycle_size is {cycle} and trainer.epochs {epochs};"
            f" the original has done both; scheduler.step={other} for {unit[other]}"
        )


def translated_definition(node: Any) -> Any:
    """Return a model's definition with aimnet's classes in the place of the original's copies of them."""
    if isinstance(node, list):
        return [translated_definition(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    node = {key: translated_definition(value) for key, value in node.items()}
    path = node.get("class")
    if path == "aimnet2mult.models.aimnet2.AIMNet2":
        node["class"] = "aimnet.models.AIMNet2"
        # The embedding's size. Elements that aimnet's has no row for are refused when the data are read.
        (node.get("kwargs") or {}).pop("max_z", None)
    elif isinstance(path, str) and path.startswith("aimnet2mult.modules."):
        node["class"] = f"aimnet.{path.removeprefix('aimnet2mult.')}"
    return node


def translated_weights(content: Any) -> Any:
    """Return the weights in a file, by the names that they have here; what is no file of the original stays as it is.

    That is a state, or a mapping with one as ``model``. The original has its readouts in ``fidelity_readouts``, each
    with a table of shifts of its own, of which it uses the rows of its fidelity. These are told apart here:
    ``outputs.<name>.heads.<fidelity>.shifts.weight``.
    """
    state = content["model"] if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping) else content
    if not isinstance(state, Mapping) or not any(str(name).startswith("fidelity_readouts.") for name in state):
        return state
    return dict(_renamed(state))


def _renamed(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if match := re.fullmatch(r"fidelity_readouts\.(\d+)\.(\w+)\.(.+)", name):
            fidelity, module, rest = match.groups()
            own = rest.startswith(("mlp.", "shifts."))
            yield f"outputs.{module}.heads.{fidelity}.{rest}" if own else f"outputs.{module}.{rest}", value
        elif name.startswith("shared_readouts."):
            yield name.replace("shared_readouts.", "outputs."), value
        elif not name.startswith(("shared_readout.", "outputs.")):
            # Those that are left out are copies that were not trained.
            yield name, value


@functools.cache
def _say(notice: str) -> None:
    """Give a notice once, however often the settings are loaded."""
    logger.warning(notice)


def _translate_losses(layer: Tree) -> None:
    """Name our losses: aimnet's know no masks, and the original's are at the same place as ours."""
    loss = layer.get("loss")
    components = _find(layer, "loss.kwargs.components", {})
    sections = [(loss, "class"), *((part, "fn") for part in (components or {}).values())] if loss else []
    for section, key in sections:
        if isinstance(section, dict) and isinstance(path := section.get(key), str):
            section[key] = re.sub(r"^aimnet\.train\.loss\.", "aimnet2mult.train.loss.", path)
            if _find(section, "kwargs.missing_label_regularization") in (None, 0):
                _take(section, "kwargs.missing_label_regularization")


def _translate_indices(layer: Tree, name: str) -> None:
    """Let the keys be integers; leave out what is a placeholder."""
    given = _find(layer, name)
    if given is None:
        _take(layer, name)
    elif isinstance(given, dict):
        pairs = ((int(key) if str(key).isdecimal() else key, value) for key, value in given.items())
        _put(layer, name, {key: value for key, value in pairs if value != "???"})


def _find(tree: object, name: str, default: Any = MISSING) -> Any:
    for word in name.split("."):
        if not isinstance(tree, Mapping) or word not in tree:
            return default
        tree = tree[word]
    return tree


def _has(tree: Tree, name: str) -> bool:
    return _find(tree, name) is not MISSING


def _take(tree: Any, name: str) -> Any:
    """Take a key out, and the sections that are left empty by it."""
    first, _, rest = name.partition(".")
    if not isinstance(tree, dict) or first not in tree:
        return MISSING
    if not rest:
        return tree.pop(first)
    value = _take(tree[first], rest)
    if value is not MISSING and tree[first] == {}:
        del tree[first]
    return value


def _put(tree: Tree, name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for word in parents:
        if not isinstance(tree.get(word), dict):
            tree[word] = {}
        tree = tree[word]
    tree[last] = value


def _same(value: Any) -> Any:
    return value


def _above_0(value: object) -> bool:
    return not isinstance(value, int) or value > 0


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
