"""Typed and validated settings of a training run.

Does not import torch, so that mistakes are reported before anything slow is imported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from aimnet2mult.config.merge import BY_FIDELITY, merge_layers
from aimnet2mult.errors import ConfigError
from aimnet2mult.quantities import LABELS
from telemetry.errors import did_you_mean
from telemetry.units import conversion_factor

__all__ = ["Config", "ConfigError", "load", "load_data_settings"]

# Replaces msgspec's description of a type where it neither lists the choices nor explains the pattern.
EXPECTED = {
    "device": "auto, cpu or cuda",
    "batch_mode": "atoms or molecules",
    "step": "iteration, epoch or val",
    "weights_of": "fidelity or structure",
    "on_bad_structure": "error or skip",
    "run_name": "letters, digits and _ . - only",
    "fidelity_names": "letters, digits and _ . - only",
}

INPUT_NAMES = ("coord", "numbers", "charge", "mult")
"""Arrays of the data sets besides the labels."""
MAX_FLOAT = sys.float_info.max
"""Upper bound that excludes infinity."""
Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
PositiveFloat = Annotated[float, Meta(gt=0, le=MAX_FLOAT)]
Name = Annotated[str, Meta(pattern=r"^\w[\w.-]*$")]
Options = dict[str, Any]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping with a fixed set of keys."""


class EnergyReference(Section, frozen=True):
    files: dict[Natural, str]


class References(Section, frozen=True):
    energy: EnergyReference


class TrainSampler(Section, frozen=True):
    batch_size: Count
    batch_mode: Literal["atoms", "molecules"]
    batches_per_epoch: Count | None


class ValSampler(Section, frozen=True):
    batch_size: Count
    batch_mode: Literal["atoms", "molecules"]


class Samplers(Section, frozen=True):
    train: TrainSampler
    val: ValSampler


class Loaders(Section, frozen=True):
    train: Options
    val: Options


class DataUnits(Section, frozen=True):
    energy: str
    forces: str
    coord: str

    def to_dict(self) -> dict[str, str]:
        """Return the unit by input or label."""
        plain: dict[str, str] = msgspec.to_builtins(self)
        return plain


class Data(Section, frozen=True):
    fidelity_datasets: dict[Natural, str]
    val_fidelity_datasets: dict[Natural, str]
    fidelity_weights: dict[Natural, Annotated[float, Meta(ge=0, le=MAX_FLOAT)]]
    weights_of: Literal["fidelity", "structure"]
    fidelity_names: dict[Natural, Name]
    sae: References
    keys: dict[str, str]
    units: DataUnits
    min_distance: Annotated[float, Meta(ge=0, le=MAX_FLOAT)]
    on_bad_structure: Literal["error", "skip"]
    y: list[str]
    val_fraction: Annotated[float, Meta(gt=0, lt=1)]
    samplers: Samplers
    loaders: Loaders


class Loss(Section, frozen=True, rename={"cls": "class"}):
    cls: str
    kwargs: Options

    @property
    def components(self) -> list[str]:
        """Names of the components, if ``kwargs`` has any, as those of `MTLoss` do."""
        components = self.kwargs.get("components")
        return [str(name) for name in components] if isinstance(components, dict) else []


class Optimizer(Section, frozen=True, rename={"cls": "class"}):
    cls: str
    kwargs: Options
    force_no_train: list[str]
    force_train: list[str]
    param_groups: dict[str, Options | None]


class Scheduler(Section, frozen=True, rename={"cls": "class"}):
    cls: str
    kwargs: Options = {}
    step: Literal["iteration", "epoch", "val"] | None = None
    metric_name: str | None = None


class Trainer(Section, frozen=True):
    epochs: Count
    clip_grad_value: PositiveFloat | None
    clip_grad_norm: PositiveFloat | None
    stop_below_lr: PositiveFloat | None


class Checkpoint(Section, frozen=True):
    keep: Count
    best: str | None


class LogFrequency(Section, frozen=True):
    val: Count | None


class Config(Section, frozen=True):
    """All settings, validated: fidelity indices count from 0 without gaps, and every input file exists."""

    run_name: Name
    project_name: Annotated[str, Meta(min_length=1)]
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    threads: Count | None
    device: Literal["auto", "cpu", "cuda"]
    load: str | None
    data: Data
    fidelity_offset: Count
    use_fidelity_readouts: bool
    loss: Loss
    optimizer: Optimizer
    scheduler: Scheduler | None
    trainer: Trainer
    checkpoint: Checkpoint
    log_frequency: LogFrequency
    telemetry: Options

    @property
    def fidelity_names(self) -> tuple[str, ...]:
        """Names of the fidelities, in the order of their indices."""
        given = self.data.fidelity_names
        return tuple(given.get(index, f"fid{index}") for index in sorted(self.data.fidelity_datasets))

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels to be trained, in display order."""
        return tuple(name for name in LABELS if name in self.data.y)

    @property
    def units(self) -> dict[str, str]:
        """Unit in which the metrics of each label are recorded."""
        given: Mapping[str, str] = self.telemetry["units"]
        return {name: given.get(name, label.unit) for name, label in LABELS.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as nested dictionaries, as stored in ``train.yaml``."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def load(files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> Config:
    """Merge the files and then the overrides over the defaults, and validate the result.

    For a resume, the first file is the ``train.yaml`` of the run.

    Raises:
        ConfigError: A file cannot be read, or a key or value is invalid.
        UnitError: A display unit is unknown or does not fit its label.
    """
    config = _convert(merge_layers(files, overrides))
    _check_fidelities(config)
    _check_files(config)
    _check_labels("data.y", config.data.y)
    if not config.data.y or len(set(config.data.y)) < len(config.data.y):
        raise ConfigError(f"data.y is {config.data.y!r}: expected at least one label, and each only once")
    _check_keys(config.data.keys)
    _check_units(config.telemetry.get("units"))
    _check_patterns(config.optimizer)
    return config


def load_data_settings(overrides: Sequence[str]) -> Data:
    """Return the section ``data`` of the defaults with overrides, without checking any files.

    Raises:
        ConfigError: A key or value is invalid.
    """
    data = _convert(merge_layers((), overrides)).data
    _check_labels("data.y", data.y)
    _check_keys(data.keys)
    return data


def _convert(plain: dict[str, Any]) -> Config:
    try:
        return msgspec.convert(plain, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), plain)) from error


def _explain(message: str, plain: dict[str, Any]) -> str:
    """Rewrite msgspec's message about a type to state the key, its value and the expected type."""
    what, _, where = message.partition(" - at ")
    name = re.split(r"[\[`]", where.partition("$.")[2])[0]
    if what.startswith("Object"):
        # "Object contains unknown field `x`" or "Object missing required field `x`", only possible in the scheduler.
        key = f"{name}.{what.split('`')[1]}"
        problem = f"{key} is missing" if "missing" in what else f"unknown key {key!r}"
        return f"{problem}; valid keys: {', '.join(Scheduler.__struct_encode_fields__)}"
    value: Any = plain
    for word in name.split("."):
        value = value[word]
    by_msgspec = what.removeprefix("Expected ").replace("`object", "`mapping").replace("`array", "`list")
    expected = EXPECTED.get(name.rpartition(".")[2], by_msgspec)
    if where.startswith("`key`"):
        expected = "fidelity indices 0, 1, … as keys" if name in BY_FIDELITY else f"keys of type {expected}"
    return f"{name} is {value!r}: expected {expected}"


def _check_fidelities(config: Config) -> None:
    data, names = config.data, config.fidelity_names
    indices = sorted(data.fidelity_datasets)
    if not indices:
        raise ConfigError("no data set is given; set at least data.fidelity_datasets.0=FILE.h5")
    if indices != list(range(len(indices))):
        raise ConfigError(f"data.fidelity_datasets has the indices {indices}: expected 0, 1, … without gaps")
    if len(set(names)) < len(names):
        raise ConfigError(f"data.fidelity_names: {', '.join(names)}: every fidelity needs a unique name")
    for section in BY_FIDELITY[1:]:
        given: Any = data
        for word in section.split(".")[1:]:
            given = getattr(given, word)
        for index in sorted(set(given) - set(indices)):
            raise ConfigError(f"{section}.{index} is set, but data.fidelity_datasets.{index} is not")
    if not any(data.fidelity_weights.get(index, 1) for index in indices):
        raise ConfigError("data.fidelity_weights are all 0; set at least one above 0")


def _check_files(config: Config) -> None:
    files = {f"data.fidelity_datasets.{index}": path for index, path in config.data.fidelity_datasets.items()}
    files |= {f"data.val_fidelity_datasets.{index}": path for index, path in config.data.val_fidelity_datasets.items()}
    files |= {f"data.sae.energy.files.{index}": path for index, path in config.data.sae.energy.files.items()}
    if config.load is not None:
        files["load"] = config.load
    for name, path in files.items():
        if not Path(path).is_file():
            raise ConfigError(f"{name}: no file {path}")
        if "fidelity_datasets" in name and not _is_hdf5(name, Path(path)):
            raise ConfigError(f"{name}: {path} is not an HDF5 file")


def _is_hdf5(name: str, path: Path) -> bool:
    """Return whether the HDF5 signature is at offset 0, or after a user block of 512, 1024, … bytes."""
    try:
        opened = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {path}: {error.strerror}") from error
    with opened as file:
        for offset in (0, *(512 << n for n in range(8))):
            file.seek(offset)
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                return True
    return False


def _check_labels(source: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in LABELS:
            raise ConfigError(f"{source}: no label {name!r}; labels: {', '.join(LABELS)}{did_you_mean(name, LABELS)}")


def _check_keys(keys: Mapping[str, str]) -> None:
    known = (*INPUT_NAMES, *LABELS)
    for name in keys:
        if name not in known:
            raise ConfigError(f"data.keys: no array {name!r}; arrays: {', '.join(known)}{did_you_mean(name, known)}")


def _check_units(units: object) -> None:
    if not isinstance(units, Mapping) or not all(isinstance(unit, str) for unit in units.values()):
        raise ConfigError(f"telemetry.units is {units!r}: expected units by label, for example energy: eV/particle")
    _check_labels("telemetry.units", list(units))
    for label, unit in units.items():
        conversion_factor(f"telemetry.units.{label}", LABELS[label].source_unit, unit)


def _check_patterns(optimizer: Optimizer) -> None:
    groups = {name: group for name, group in optimizer.param_groups.items() if group is not None}
    patterns: dict[str, object] = {f"param_groups.{name}.re": group.get("re") for name, group in groups.items()}
    for key in ("force_train", "force_no_train"):
        patterns |= {f"{key}[{position}]": pattern for position, pattern in enumerate(getattr(optimizer, key))}
    for key, pattern in patterns.items():
        if not _is_pattern(pattern):
            raise ConfigError(f"optimizer.{key} is {pattern!r}: expected a regular expression")


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False
