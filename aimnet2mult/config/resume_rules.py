"""Which run a resume goes on with, and what it may change. Without torch."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aimnet2mult.config.merge import flatten, read_yaml
from aimnet2mult.config.schema import Config, load
from aimnet2mult.errors import ConfigError

__all__ = ["CONFIG", "MODEL", "find_run", "load_config", "load_definition", "newest_first", "run_name_at"]

CONFIG = "train.yaml"
MODEL = "model.yaml"

# All else belongs to what is trained. Of telemetry, its own rules say what may change.
CHANGEABLE = ("trainer.epochs", "checkpoint.", "data.loaders.", "threads", "device", "telemetry.")


def find_run(name: str, directory: Path) -> Path:
    """Return the folder of a run, given as a path or by its name in directory. Raises ConfigError."""
    for folder in (Path(name), directory / name):
        if (folder / CONFIG).is_file():
            return folder
    raise ConfigError(f"there is no run {name!r}: neither {name} nor {directory / name} holds a {CONFIG}")


def run_name_at(run_name: str, seconds: float, number: int) -> str:
    """Return the name of a run's folder: of the number-th run of that name in this second of local time."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(seconds))
    return f"{run_name}-{stamp}" + (f"-{number}" if number > 1 else "")


def newest_first(run_name: str, directory: Path) -> list[Path]:
    """Return the folders of the runs of that name in directory, those that were started last first."""
    pattern = re.compile(re.escape(run_name) + r"-(\d{8}-\d{6})(?:-(\d+))?")
    found = []
    for folder in directory.glob(f"{run_name}-*"):
        match = pattern.fullmatch(folder.name)
        if match and (folder / CONFIG).is_file():
            found.append((match[1], int(match[2] or 1), folder))
    return [folder for *_, folder in sorted(found, reverse=True)]


def load_config(run: Path, files: Sequence[Path], overrides: Sequence[str]) -> Config:
    """Load the configuration that a run goes on with: its own, and files and overrides over it.

    Raises ConfigError for a change of what is trained.
    """
    before, after = load([run / CONFIG]), load([run / CONFIG, *files], overrides)
    one, other = _leaves(before), _leaves(after)
    for key in dict.fromkeys([*one, *other]):
        if one.get(key) != other.get(key) and not key.startswith(CHANGEABLE):
            _refuse(key, one.get(key), other.get(key), run)
    for label, unit in before.units.items():
        if after.units[label] != unit:
            _refuse(f"telemetry.units.{label}", unit, after.units[label], run)
    return after


def load_definition(run: Path, asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the definition of a run's model. Raises ConfigError if another one is asked for."""
    definition = read_yaml(run / MODEL)
    one, other = dict(flatten(definition)), dict(flatten(asked or definition))
    for key in dict.fromkeys([*one, *other]):
        if one.get(key) != other.get(key):
            _refuse(f"the model's {key}", one.get(key), other.get(key), run)
    return definition


def _leaves(config: Config) -> dict[str, Any]:
    return dict(flatten(config.to_dict()))


def _refuse(key: str, before: object, after: object, run: Path) -> None:
    raise ConfigError(
        f"{key} was {before!r} in {run} and cannot be {after!r} after a resume; only "
        f"{', '.join(name.rstrip('.') for name in CHANGEABLE)} may change"
    )
