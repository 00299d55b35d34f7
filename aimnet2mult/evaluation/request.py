"""The arguments of an evaluation, and the settings that apply to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aimnet2mult.config import resume_rules, trust
from aimnet2mult.config.schema import Config, check_files, input_files, load
from aimnet2mult.errors import ConfigError, Problems

if TYPE_CHECKING:
    from aimnet2mult.models.saved_model import SavedModel

__all__ = ["Part", "Request", "find_fidelities", "load_config"]

Part = Literal["train", "test", "val", "all"]

SETTINGS = ("device", "threads", "telemetry.units.", "data.loaders.val.", "data.samplers.val.", "data.allow_external")
"""Settings that an evaluation may change."""
FILE_SETTINGS = ("data.keys", "data.units", "data.min_distance", "data.on_bad_structure")
"""Further settings that it may change for data files of the user."""
DATA_SETS = tuple(f"data.{part}fidelity_datasets." for part in ("", "val_", "test_"))
"""Paths of the data of a run, which may have moved; the content must be the same."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of ``aimnet2mult evaluate``."""

    model: Path
    """Run folder or weight file."""
    files: Sequence[Path] = ()
    """Data files; none for the data of the run."""
    fidelity: str | None = None
    """Fidelity of all files, or the one to evaluate of a run's data."""
    part: Part = "val"
    """Which part of a run's data to evaluate."""
    weights: Literal["best", "last"] = "best"
    overrides: Sequence[str] = ()
    """``key=value`` with dotted keys."""
    by: Sequence[str] = ()
    """Groupings; by default, all with few values."""
    worst: int = 5
    """Number of structures with the largest errors to report for each label."""
    output: Path | None = None
    """Folder to create."""
    predictions: bool = False
    """Whether to write the predictions."""
    plots: bool = True
    """Whether to draw plots, if there is a folder."""
    allow_packages: Sequence[str] = field(default=())
    """Packages whose classes and functions settings may name, besides those that are always trusted."""

    @property
    def run(self) -> Path | None:
        """The run folder, if the model is one."""
        return self.model if self.model.is_dir() else None


def load_config(request: Request, saved: "SavedModel") -> Config:
    """Return the settings of the run, or the defaults for a weight file, with the overrides of the request.

    Raises:
        ConfigError: A setting is invalid or cannot be changed, or a file is missing; the message has a line for each.
    """
    problems = Problems()
    for override in request.overrides:
        if problem := _find_problem(override, with_files=bool(request.files)):
            problems.add(problem)
    problems.raise_any()
    recorded = None if request.run is None else request.run / resume_rules.CONFIG_FILE
    described = () if request.run is not None else _describe(saved)
    config = load((), (*described, *request.overrides), problems=problems, check_inputs=False, recorded=recorded)
    if recorded is not None:
        trust.check_settings(config, (recorded,), request.overrides, problems)
    if not request.files:
        _check_data_sets(config, problems)
    problems.raise_any()
    return config


def _find_problem(override: str, *, with_files: bool) -> str:
    key = override.partition("=")[0]
    allowed = (*SETTINGS, *(FILE_SETTINGS if with_files else DATA_SETS))
    if key.startswith(allowed):
        return ""
    if key.startswith((*FILE_SETTINGS, *DATA_SETS)):
        which = "data files of your own" if key.startswith(FILE_SETTINGS) else "the data of a run"
        return f"{key} is for the evaluation of {which}"
    return f"{key} cannot be changed here; only {', '.join(name.rstrip('.') for name in allowed)} can"


def _describe(saved: "SavedModel") -> list[str]:
    """Return the settings that follow from the model; it has no data sets, whose paths are not used."""
    names = dict(enumerate(saved.fidelity_names))
    settings = {
        "data.fidelity_datasets": dict.fromkeys(names, str(saved.source)),
        "data.fidelity_names": names,
        "fidelity_offset": saved.fidelity_offset,
        "use_fidelity_readouts": saved.use_fidelity_readouts,
    }
    # YAML reads the keys of JSON, which are texts, as such.
    return [
        f"{key}.{index}={json.dumps(item)}" if isinstance(value, dict) else f"{key}={json.dumps(value)}"
        for key, value in settings.items()
        for index, item in (value.items() if isinstance(value, dict) else [("", value)])
    ]


def _check_data_sets(config: Config, problems: Problems) -> None:
    files = {key: path for key, path in input_files(config).items() if key.startswith(DATA_SETS)}
    for message in check_files(files):
        key = message.partition(":")[0]
        problems.add(f"{message}; if it has moved, add {key}=PATH to the command")


def find_fidelities(request: Request, names: Sequence[str]) -> list[int]:
    """Return the index of the fidelity of each file, or for a run's data, the indices of those to evaluate.

    Raises:
        ConfigError: There is no such fidelity, or the number of files does not fit.
    """
    if request.fidelity is not None:
        if request.fidelity not in names:
            raise ConfigError(
                f"there is no fidelity {request.fidelity!r} in {request.model}; it has {', '.join(names)}"
            )
        return [names.index(request.fidelity)] * max(1, len(request.files))
    if not request.files:
        return list(range(len(names)))
    if len(names) == 1:
        return [0] * len(request.files)
    if len(request.files) != len(names):
        raise ConfigError(
            f"the model has {len(names)} fidelities ({', '.join(names)}), but the number of data files is "
            f"{len(request.files)}; give one for each in this order, or name the fidelity of all files with --fidelity"
        )
    return list(range(len(names)))
