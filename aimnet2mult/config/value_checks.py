"""Checks of values that their type does not determine, as far as possible without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from aimnet2mult.config.data_units import convertible, data_unit_factors
from aimnet2mult.config.duration import AUTO, parse_duration
from aimnet2mult.config.import_path import check_path
from aimnet2mult.config.label_settings import check_declarations
from aimnet2mult.config.merge import BY_FIDELITY, CACHE_WORDS
from aimnet2mult.config.sections import ADAPTIVE_LOSS, OWN_LOSS
from aimnet2mult.config.weight_points import EXPECTED_WEIGHT, read_weight
from aimnet2mult.errors import ConfigError
from aimnet2mult.quantities import INPUTS
from telemetry.errors import UnitError, did_you_mean
from telemetry.units import conversion_factor

if TYPE_CHECKING:
    from aimnet2mult.config.schema import Config
    from aimnet2mult.quantities import Label

__all__ = ["CHECKS", "VALIDATION_REMEDY", "check_arrays"]

MAX_NAME_BYTES = 230
"""Maximum length of names that become parts of file names, which have up to 255 bytes."""
MAX_PROJECT_LENGTH = 250
VALIDATION_REMEDY = "set data.val_fraction above 0, or data.val_fidelity_datasets"
"""What to do without validation data."""
OTHER_WORDS = ("false", "true", "no", "yes", "on", "none", "null", "default")
"""Words that are probably not meant as the name of a folder."""
NUMBERS = ("lr", "weight_decay", "eps", "momentum")
"""Settings that all optimizers of torch, if they have them, require to be numbers of at least 0."""


def _check_data(config: Config) -> Iterator[str]:
    data, names = config.data, config.fidelity_names
    indices = sorted(data.fidelity_datasets)
    if not indices:
        yield "no data set is given; set at least data.fidelity_datasets.0=FILE.h5"
    elif indices != list(range(len(indices))):
        yield f"data.fidelity_datasets has the indices {indices}: expected 0, 1, … without gaps"
    for index, name in data.fidelity_names.items():
        yield from _check_name(f"data.fidelity_names.{index}", name)
    if len(set(names)) < len(names):
        yield f"data.fidelity_names: {', '.join(names)}: every fidelity needs a unique name"
    for section in BY_FIDELITY[1:]:
        given: Any = data
        for word in section.split(".")[1:]:
            given = getattr(given, word)
        for index in sorted(set(given) - set(indices)):
            yield f"{section}.{index} is set, but data.fidelity_datasets.{index} is not"
    if indices and not any(data.fidelity_weights.get(index, 1) for index in indices):
        yield "data.fidelity_weights are all 0; set at least one above 0"
    yield from _check_folders(config)
    yield from _check_parts(config)
    yield from check_arrays(config)
    if not data.y or len(set(data.y)) < len(data.y):
        yield f"data.y is {data.y!r}: expected at least one label, and each only once"


def _check_folders(config: Config) -> Iterator[str]:
    """Check the folders to which data are copied."""
    folders = {"data.cache": config.data.cache, "data.stage": config.data.stage}
    for key, folder in folders.items():
        expected = "expected auto, off or a folder" if key == "data.cache" else "expected a folder, or null"
        if folder is None or (key == "data.cache" and folder in CACHE_WORDS):
            continue
        name = PurePath(folder).name
        if name.lower() in (*OTHER_WORDS, *CACHE_WORDS):
            yield f"{key} is {name!r}: {expected}"
        elif not folder.isprintable() or "$" in folder:
            yield f"{key} is {folder!r}: {expected}; in a file, ${{oc.env:TMPDIR}} stands for $TMPDIR"
        elif Path(folder).exists() and not Path(folder).is_dir():
            yield f"{key} is {folder}, which is a file: {expected}"


def _check_parts(config: Config) -> Iterator[str]:
    """Check the fractions, and the settings that require validation data if there are certainly none."""
    data, scheduler = config.data, config.scheduler
    val, test = data.val_fraction, data.test_fraction
    if val + test >= 1 and not (data.val_fidelity_datasets or data.test_fidelity_datasets or data.split_file):
        yield f"data.val_fraction and data.test_fraction are {val} and {test}: expected a sum below 1"
    if data.val_fraction or data.val_fidelity_datasets or data.split_file is not None:
        return
    needing = {
        "checkpoint.best": config.checkpoint.best,
        "trainer.early_stopping.metric": config.trainer.early_stopping.metric,
        "scheduler.class": scheduler.cls if scheduler is not None and "Plateau" in scheduler.cls else None,
        "scheduler.step": "val" if scheduler is not None and scheduler.step == "val" else None,
        "scheduler.metric_name": None if scheduler is None else scheduler.metric_name,
    }
    for key, value in needing.items():
        if value is not None:
            yield f"{key} is {value!r}, but no structures are for validation; {VALIDATION_REMEDY}"


def check_arrays(config: Config) -> Iterator[str]:
    """Yield a message for each label, array and unit in ``data`` that does not exist."""
    data, labels = config.data, config.known_labels
    yield from _check_labels("data.y", data.y, labels)
    known = (*INPUTS, *labels)
    for name in data.keys:
        if name not in known:
            yield f"data.keys: no array {name!r}; arrays: {', '.join(known)}{did_you_mean(name, known)}"
    with_unit = convertible(labels)
    for name, unit in data.units.items():
        if name not in with_unit:
            hint = did_you_mean(name, with_unit)
            yield f"data.units: no array {name!r} with a unit; arrays: {', '.join(with_unit)}{hint}"
            continue
        try:
            data_unit_factors({name: unit}, labels=labels)
        except ConfigError as error:
            yield str(error)
    sources: dict[str, str] = {}
    # An array that is not read may lend its name to another one.
    for name in (*INPUTS, *(label for label in labels if label in data.y or label in data.keys)):
        source = data.keys.get(name, name)
        if source in sources:
            yield f"data.keys: {sources[source]} and {name} would both be read from {source!r}; name different arrays"
        sources[source] = name


def _check_labels(source: str, names: Sequence[Any], known: Mapping[str, Label]) -> Iterator[str]:
    for name in names:
        if not isinstance(name, str) or name not in known:
            yield f"{source}: no label {name!r:.100}; labels: {', '.join(known)}{did_you_mean(str(name), known)}"


def _check_declared(config: Config) -> Iterator[str]:
    yield from check_declarations(config)
    for name, declared in config.declared_labels.items():
        key, unit = f"labels.{name}", declared.unit
        problems = [*_check_unit(f"{key}.unit", unit, unit)]
        yield from problems or _check_unit(f"{key}.metric_unit", unit, declared.metric_unit or unit)
        if declared.loss.fn is not None:
            yield from _check_path(declared.loss.fn, f"{key}.loss.fn")


def _check_name(key: str, name: str) -> Iterator[str]:
    size = len(name.encode())
    if size > MAX_NAME_BYTES:
        yield f"{key} is {name[:20]}…, {size} bytes long: expected up to {MAX_NAME_BYTES}, because files are named so"


def _check_project_name(config: Config) -> Iterator[str]:
    name = config.project_name
    if not name.isprintable() or len(name) > MAX_PROJECT_LENGTH:
        yield f"project_name is {name!r:.60}: expected up to {MAX_PROJECT_LENGTH} printable characters"


def _check_loss(config: Config) -> Iterator[str]:
    loss = config.loss
    yield from _check_path(loss.cls, "loss.class")
    if loss.cls not in (OWN_LOSS, ADAPTIVE_LOSS):
        for key, path in loss.functions.items():
            yield from _check_path(path, key)
        return
    components = loss.arguments.get("components")
    if not isinstance(components, Mapping):
        yield f"loss.kwargs.components is {components!r}: expected loss components by name"
        return
    for name, component in components.items():
        yield from _check_component(f"loss.kwargs.components.{name}", component, config.known_labels)


def _check_component(key: str, component: object, known: Mapping[str, Label]) -> Iterator[str]:
    if not isinstance(component, Mapping):
        yield f"{key} is {component!r}: expected fn, weight and kwargs"
        return
    # Missing and unknown keys are left to the loss.
    if "fn" in component:
        yield from _check_path(component["fn"], f"{key}.fn")
    kwargs = component.get("kwargs")
    if isinstance(kwargs, Mapping) and "key_true" in kwargs:
        yield from _check_labels(f"{key}.kwargs.key_true", [kwargs["key_true"]], known)
    if "weight" in component and read_weight(component["weight"]) is None:
        yield f"{key}.weight is {component['weight']!r}: expected {EXPECTED_WEIGHT}"


def _check_optimizer(config: Config) -> Iterator[str]:
    optimizer = config.optimizer
    yield from _check_path(optimizer.cls, "optimizer.class")
    groups = {name: group for name, group in optimizer.param_groups.items() if group is not None}
    settings = {"kwargs": optimizer.kwargs, **{f"param_groups.{name}": group for name, group in groups.items()}}
    for section, given in settings.items():
        for name in NUMBERS:
            if given.get(name) is not None and not _is_number(given[name]):
                yield f"optimizer.{section}.{name} is {given[name]!r}: expected a finite number of at least 0"
    patterns: dict[str, object] = {f"param_groups.{name}.re": group.get("re") for name, group in groups.items()}
    for key in ("force_train", "force_no_train"):
        patterns |= {f"{key}[{position}]": pattern for position, pattern in enumerate(getattr(optimizer, key))}
    for key, pattern in patterns.items():
        if not _is_pattern(pattern):
            yield f"optimizer.{key} is {pattern!r}: expected a regular expression"


def _check_scheduler(config: Config) -> Iterator[str]:
    if config.scheduler is not None:
        for key, path in config.scheduler.classes.items():
            yield from _check_path(path, key)


def _check_trainer(config: Config) -> Iterator[str]:
    if config.trainer.tf32 and config.trainer.precision == "float64":
        yield "trainer.tf32 is true, but has no effect on float64; set it to false, or trainer.precision to float32"
    limit = config.trainer.time_limit
    try:
        if limit is not None and limit != AUTO:
            parse_duration(limit)
    except ConfigError as error:
        yield str(error)


def _check_telemetry(config: Config) -> Iterator[str]:
    directory = config.telemetry.get("dir")
    if isinstance(directory, str) and not directory.isprintable():
        yield f"telemetry.dir is {directory!r}: expected a path of printable characters"
    units = config.telemetry.get("units")
    if not isinstance(units, Mapping) or not all(isinstance(unit, str) for unit in units.values()):
        yield f"telemetry.units is {units!r}: expected units by label, for example energy: eV/particle"
    else:
        known = config.known_labels
        yield from _check_labels("telemetry.units", list(units), known)
        for label, unit in units.items():
            if label in known:
                yield from _check_unit(f"telemetry.units.{label}", known[label].source_unit, unit)


def _check_unit(key: str, source_unit: str, unit: str) -> Iterator[str]:
    try:
        conversion_factor(key, source_unit, unit)
    except UnitError as error:
        yield str(error)


def _check_path(path: object, key: str) -> Iterator[str]:
    try:
        check_path(path, key)
    except ConfigError as error:
        yield str(error)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


CHECKS = {
    "run_name": lambda config: _check_name("run_name", config.run_name),
    "project_name": _check_project_name,
    "labels": _check_declared,
    "data": _check_data,
    "loss": _check_loss,
    "optimizer": _check_optimizer,
    "scheduler": _check_scheduler,
    "trainer": _check_trainer,
    "telemetry": _check_telemetry,
}
"""By section, a function that yields the problems of its values."""
