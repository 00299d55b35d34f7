"""Selection of the run to resume, and rules for changing its settings. Does not import torch."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aimnet2mult.config.merge import flatten, read_yaml
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError

__all__ = [
    "CONFIG_FILE",
    "MODEL_FILE",
    "find_run",
    "list_newest_first",
    "load_config",
    "load_definition",
    "run_name_at",
]

CONFIG_FILE = "train.yaml"
MODEL_FILE = "model.yaml"

# All other settings define the training. Telemetry restricts changes of its own settings further.
CHANGEABLE = (
    "trainer.epochs",
    "trainer.on_bad_step",
    "trainer.max_bad_steps",
    "checkpoint.",
    "data.loaders.",
    "threads",
    "device",
    "telemetry.",
)


def find_run(name: str, directory: Path) -> Path:
    """Return the folder of a run, given as a path or as a name in ``directory``.

    Raises:
        ConfigError: Neither exists.
    """
    for folder in (Path(name), directory / name):
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise ConfigError(f"there is no run {name!r}: neither {name} nor {directory / name} contains a {CONFIG_FILE}")


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
        if match and (folder / CONFIG_FILE).is_file():
            found.append((match[1], int(match[2] or 1), folder))
    return [folder for *_, folder in sorted(found, reverse=True)]


def load_config(run: Path, files: Sequence[Path], overrides: Sequence[str]) -> Config:
    """Load the settings of a run with files and overrides merged over them.

    Raises:
        ConfigError: They change a setting that defines the training, or a unit.
    """
    old, new = load([run / CONFIG_FILE]), load([run / CONFIG_FILE, *files], overrides)
    old_values, new_values = dict(flatten(old.to_dict())), dict(flatten(new.to_dict()))
    for key in dict.fromkeys([*old_values, *new_values]):
        if not key.startswith(CHANGEABLE):
            _check_unchanged(key, old_values.get(key), new_values.get(key), run)
    for label, unit in old.units.items():
        _check_unchanged(f"telemetry.units.{label}", unit, new.units[label], run)
    return new


def load_definition(run: Path, requested: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the model definition of a run.

    Raises:
        ConfigError: ``requested`` differs from it.
    """
    definition = read_yaml(run / MODEL_FILE)
    old, new = dict(flatten(definition)), dict(flatten(requested or definition))
    for key in dict.fromkeys([*old, *new]):
        _check_unchanged(f"the model's {key}", old.get(key), new.get(key), run)
    return definition


def _check_unchanged(key: str, old: object, new: object, run: Path) -> None:
    if new != old:
        raise ConfigError(
            f"{key} was {old!r} in {run} and cannot be {new!r} after a resume; only "
            f"{', '.join(name.rstrip('.') for name in CHANGEABLE)} may change"
        )
