"""Selection of the run to resume, and rules for changing its settings. Does not import torch."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aimnet2mult.config.label_settings import drop_labels
from aimnet2mult.config.merge import flatten, read_yaml
from aimnet2mult.config.schema import CONFIG_FILE, Config, check_files, input_files, load
from aimnet2mult.config.user_path import expand_user, is_file
from aimnet2mult.errors import ConfigError, Problems
from telemetry.errors import RunFolderError, RunNotFound
from telemetry.reading.find_run import find_run as find_recorded_run

__all__ = [
    "CONFIG_FILE",
    "MODEL_FILE",
    "SAE_FOLDER",
    "SPLIT_FILE",
    "find_difference",
    "find_run",
    "list_newest_first",
    "load_config",
    "load_definition",
    "load_recorded",
    "reject_links",
    "run_name_at",
]

MODEL_FILE = "model.yaml"
SAE_FOLDER = "sae"
SPLIT_FILE = "split.npz"

# All other settings define the training. Telemetry restricts changes of its own settings further.
CHANGEABLE = (
    "trainer.epochs",
    "trainer.on_bad_step",
    "trainer.max_bad_steps",
    "trainer.evaluate_train_every",
    "trainer.micro_batches",
    "trainer.tf32",
    "trainer.early_stopping.",
    "trainer.time_limit",
    "checkpoint.",
    "log_frequency.plots",
    "log_frequency.progress",
    "data.samplers.",
    "data.loaders.",
    "data.in_memory_gb",
    "data.cache",
    "data.stage",
    "data.allow_external",
    "data.on_missing_label",
    "threads",
    "device",
    "record_setup",
    "telemetry.",
)
MOVABLE = ("data.fidelity_datasets.", "data.val_fidelity_datasets.", "data.test_fidelity_datasets.")
"""Paths that may change, but not appear or disappear; the trainer checks that the content is the same."""
INEXACT = ("data.samplers.", "threads", "device", "trainer.micro_batches", "trainer.tf32")
"""Changeable settings that change the numbers, by rounding or by the composition of the batches."""
SAME_BATCHES = "data.samplers.val."
"""The settings of samplers that do not change the training."""


def find_run(name: str, directory: Path) -> Path:
    """Return the folder of a run, given as a path, or by the ID, the name or a unique beginning in ``directory``.

    Raises:
        ConfigError: There is no such run, or there are several.
    """
    for folder in (expand_user(name), directory / name):
        if is_file(folder / CONFIG_FILE):
            return folder
    try:
        folder = find_recorded_run(name, directory)
    except (RunNotFound, RunFolderError) as error:
        raise ConfigError(str(error)) from error
    if not is_file(folder / CONFIG_FILE):
        raise ConfigError(f"{folder} contains no {CONFIG_FILE}, so it is not the folder of a training")
    return folder


def run_name_at(run_name: str, seconds: float, number: int) -> str:
    """Return the folder name of a run started at a Unix time; ``number`` distinguishes those of the same second."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(seconds))
    return f"{run_name}-{stamp}" + (f"-{number}" if number > 1 else "")


def list_newest_first(run_name: str, directory: Path) -> list[Path]:
    """Return the run folders with this run name in ``directory``, newest first."""
    pattern = re.compile(re.escape(run_name) + r"-(\d{8}-\d{6})(?:-(\d+))?")
    found = []
    for folder in directory.glob(f"{run_name}-*"):
        match = pattern.fullmatch(folder.name)
        if match and is_file(folder / CONFIG_FILE):
            found.append((match[1], int(match[2] or 1), folder))
    return [folder for *_, folder in sorted(found, reverse=True)]


def find_difference(run: Path, config: Config, definition: Mapping[str, Any]) -> str:
    """Return a setting in which a requested training differs from that of a run, or "" if it is the same training.

    The length of the training does not matter, nor do settings that affect only rounding. Data sets are the same if
    they have the same path, or if they have moved, so that the old path does not exist.

    Args:
        run: The run folder.
        config: The settings requested.
        definition: The model requested.
    """
    try:
        old = load(recorded=run / CONFIG_FILE, check_inputs=False)
        before = _values({**old.to_dict(), "model": read_yaml(run / MODEL_FILE)})
    except ConfigError as error:
        return str(error)
    asked = _with_rows_of(read_yaml(run / MODEL_FILE), definition)
    after = _values({**_with_labels_of(old, config).to_dict(), "model": asked})
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key), after.get(key)
        if was != now and not _is_same_training(key, was, now):
            return f"{key} was {was!r}, is {now!r}"
    return ""


def _is_same_training(key: str, was: Any, now: Any) -> bool:
    """Return whether a change of a setting does not make it another training."""
    if key.startswith(MOVABLE):
        return None not in (was, now) and not Path(was).exists()
    return key.startswith(SAME_BATCHES) or (key.startswith(CHANGEABLE) and not key.startswith("data.samplers."))


def reject_links(run: Path, *others: str) -> None:
    """Check that nothing that is written or read here is a link, which may lead anywhere in a run folder from others.

    Args:
        run: The run folder.
        others: Names of further files and folders in it.

    Raises:
        ConfigError: Some are links.
    """
    names = (CONFIG_FILE, MODEL_FILE, SAE_FOLDER, "sinks", *others)
    links = [str(run / name) for name in names if (run / name).is_symlink()]
    if not (run / SAE_FOLDER).is_symlink():
        links += [str(path) for path in sorted((run / SAE_FOLDER).glob("*.yaml")) if path.is_symlink()]
    if links:
        raise ConfigError(
            f"{', '.join(links)}: links in a run folder are not followed, because they may lead to files of others; "
            "replace them by what they refer to"
        )


def load_config(
    run: Path, files: Sequence[Path], overrides: Sequence[str], *, problems: Problems, restarts: bool
) -> tuple[Config, list[str]]:
    """Load the settings of a run with files and overrides merged over them.

    Args:
        run: The run folder.
        files: YAML files.
        overrides: ``key=value`` with dotted keys.
        problems: Collects changes of settings that define the training, invalid settings and missing input files.
        restarts: Whether the run starts again at iteration 0, and needs the file of initial weights.

    Returns:
        The settings, and the changes after which the run is no longer bit-identical to one without them.

    Raises:
        ConfigError: The settings of the run cannot be read.
    """
    recorded = run / CONFIG_FILE
    old = load_recorded(recorded)
    new = _with_labels_of(old, load(files, overrides, problems=problems, check_inputs=False, recorded=recorded))
    old_values, new_values = _values(old.to_dict()), _values(new.to_dict())
    inexact, rejected = [], []
    for key in dict.fromkeys([*old_values, *new_values]):
        before, after = old_values.get(key), new_values.get(key)
        moved = key.startswith(MOVABLE) and key in old_values and key in new_values
        if not moved and not key.startswith(CHANGEABLE):
            rejected += _describe_change(key, before, after, run)
        elif key.startswith(INEXACT) and before != after:
            inexact.append(f"{key} was {before}, is {after}")
    for label, unit in old.units.items():
        rejected += _describe_change(f"telemetry.units.{label}", unit, new.units[label], run)
    if rejected:
        problems.add("\n".join([*rejected, f"only {_describe_changeable()} may change; for others, start a new run"]))
    _check_inputs(new, run, problems, restarts=restarts)
    return new, inexact


def _with_labels_of(old: Config, new: Config) -> Config:
    """Return requested settings without the labels that a run has dropped because no data set has them."""
    if {old.data.on_missing_label, new.data.on_missing_label} != {"drop"}:
        return new
    return drop_labels(new, {*new.data.y} - {*old.data.y})


def load_recorded(path: Path) -> Config:
    """Load the settings of a run from its ``train.yaml``; the input files need not exist.

    Raises:
        ConfigError: The file cannot be read, or contains invalid settings.
    """
    if not read_yaml(path):
        raise ConfigError(f"{path} is empty, so the settings of the run are lost; start a new run with --load")
    try:
        return load(recorded=path, check_inputs=False)
    except ConfigError as error:
        lines = str(error).splitlines()
        raise ConfigError("\n".join(line if str(path) in line else f"{path}: {line}" for line in lines)) from error


def _check_inputs(config: Config, run: Path, problems: Problems, *, restarts: bool) -> None:
    """Check the files that a resume reads: not those whose content is in the checkpoint or in the run folder."""
    needed = input_files(config)
    if not restarts:
        needed.pop("load", None)
    if (run / SPLIT_FILE).is_file():
        needed.pop("data.split_file", None)
    for index, name in enumerate(config.fidelity_names):
        if (run / SAE_FOLDER / f"{name}.yaml").is_file():
            needed.pop(f"data.sae.energy.files.{index}", None)
    for message in check_files(needed):
        key = message.partition(":")[0]
        hint = f"; if it has moved, add {key}=PATH to the command" if key.startswith(MOVABLE) else ""
        problems.add(f"{message}{hint}")


def load_definition(run: Path, requested: Mapping[str, Any] | None, problems: Problems) -> dict[str, Any]:
    """Return the model definition of a run; ``problems`` collects its differences from ``requested``.

    Raises:
        ConfigError: The definition cannot be read.
    """
    definition = read_yaml(run / MODEL_FILE)
    old, new = _values(definition), _values(_with_rows_of(definition, requested or definition))
    for key in dict.fromkeys([*old, *new]):
        for change in _describe_change(f"the model's {key}", old.get(key), new.get(key), run):
            problems.add(change)
    return definition


def _with_rows_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a requested definition without ``max_z`` if a run has none: earlier versions left it out."""
    kwargs = new.get("kwargs")
    if not isinstance(kwargs, Mapping) or "max_z" in (old.get("kwargs") or {}):
        return new
    return {**new, "kwargs": {name: value for name, value in kwargs.items() if name != "max_z"}}


def _values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by dotted key; an empty mapping has none."""
    return {key: value for key, value in flatten(settings) if value != {}}


def _describe_change(key: str, old: object, new: object, run: Path) -> list[str]:
    """Return a line if a setting that cannot change is different, otherwise none."""
    return [] if new == old else [f"{key} was {old!r} in {run} and cannot be {new!r} after a resume"]


def _describe_changeable() -> str:
    moved = (f"{name}N (with the same content)" for name in MOVABLE)
    return ", ".join([*(name.rstrip(".") for name in CHANGEABLE), *moved])
