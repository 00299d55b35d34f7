"""Typed and validated settings of a training run, without torch: mistakes are reported before slow imports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from aimnet2mult.config.label_settings import with_default_components
from aimnet2mult.config.merge import merge_layers, read_defaults
from aimnet2mult.config.sections import (
    Checkpoint,
    Count,
    Data,
    DeclaredLabel,
    LogFrequency,
    Loss,
    Name,
    Optimizer,
    Options,
    Scheduler,
    Trainer,
)
from aimnet2mult.config.type_check import Section, find_misfits
from aimnet2mult.config.user_path import is_file, is_folder
from aimnet2mult.config.value_checks import CHECKS, check_arrays
from aimnet2mult.errors import ConfigError, Problems
from aimnet2mult.quantities import LABELS, Label
from telemetry.redaction import redact

__all__ = ["CONFIG_FILE", "Config", "ConfigError", "check_files", "input_files", "load", "load_data_settings"]

CONFIG_FILE = "train.yaml"
"""File that every run folder contains."""


class Config(Section, frozen=True, rename={"declared_labels": "labels"}):
    """All settings, validated: fidelity indices count from 0 without gaps, and every input file exists."""

    run_name: Name
    project_name: Annotated[str, Meta(min_length=1)]
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    threads: Count | None
    device: Literal["auto", "cpu", "cuda"]
    record_setup: bool
    load: str | None
    load_reference_energies: Literal["keep", "replace"]
    declared_labels: dict[str, DeclaredLabel]
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
    def known_labels(self) -> dict[str, Label]:
        """The built-in labels and those declared, by name, in display order."""
        return {**LABELS, **{name: label.to_label(name) for name, label in self.declared_labels.items()}}

    @property
    def offset_between(self) -> int | None:
        """Shift of the atomic numbers from one fidelity to the next; None if there is only one."""
        return self.fidelity_offset if len(self.fidelity_names) > 1 else None

    @property
    def labels(self) -> tuple[Label, ...]:
        """Labels to be trained, in display order."""
        return tuple(label for name, label in self.known_labels.items() if name in self.data.y)

    @property
    def units(self) -> dict[str, str]:
        """Unit in which the metrics of each label are recorded."""
        given: Mapping[str, str] = self.telemetry["units"]
        return {name: given.get(name, label.unit) for name, label in self.known_labels.items()}

    @property
    def lr_groups(self) -> list[str]:
        """Names of the parameter groups whose learning rate may differ from the main one."""
        groups = self.optimizer.param_groups.items()
        return [name for name, group in groups if group is not None and (self.scheduler or "lr" in group)]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as nested dictionaries, as stored in ``train.yaml``, without credentials of sinks."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain | {"telemetry": redact(self.telemetry)}


def load(
    files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    *,
    problems: Problems | None = None,
    check_inputs: bool = True,
    recorded: Path | None = None,
) -> Config:
    """Merge the files and then the overrides over the defaults, and validate the result.

    Args:
        files: YAML files.
        overrides: ``key=value`` with dotted keys.
        problems: Collects the errors, for a caller that looks for more; settings with errors then have their defaults.
        check_inputs: Whether the input files must exist.
        recorded: For a resume, the ``train.yaml`` of the run, below all files. Nothing in it is a reference.

    Raises:
        ConfigError: A file cannot be read, or keys or values are invalid; the message has a line for each.
    """
    found = problems or Problems()
    config, misfits = _convert(merge_layers(files, overrides, found, recorded=recorded), found)
    wrong = {key.partition(".")[0] for key in misfits}
    for section, check in CHECKS.items():
        for message in check(config) if section not in wrong else ():
            found.add(message)
    for message in check_files(input_files(config)) if check_inputs else ():
        found.add(message)
    if problems is None:
        found.raise_any()
    return with_default_components(config)


def _convert(plain: dict[str, Any], problems: Problems) -> tuple[Config, list[str]]:
    """Return the settings with defaults in place of those of a wrong type, and the keys of these."""
    misfits = dict(find_misfits(plain, Config))
    for message in misfits.values():
        problems.add(message)
    config: Config = msgspec.convert(_reset(plain, misfits), Config)
    return config, list(misfits)


def _reset(plain: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the settings with those of ``keys`` replaced by their defaults."""
    defaults = read_defaults()
    for key in keys:
        node, default = plain, defaults
        *parents, last = key.split(".")
        for word in parents:
            if not default.get(word):
                # A mapping whose items have no defaults.
                last = word
                break
            node, default = node[word], default[word]
        node[last] = default.get(last, {})
    return plain


def load_data_settings(files: Sequence[Path], overrides: Sequence[str]) -> Config:
    """Return the settings for reading data, ``data`` and ``labels``; the others are not checked.

    No data set has to be given.

    Raises:
        ConfigError: A file cannot be read, or keys or values are invalid; the message has a line for each.
    """
    problems = Problems()
    config, _ = _convert(merge_layers(files, overrides, problems), problems)
    for message in check_arrays(config):
        problems.add(message)
    problems.raise_any()
    return config


def input_files(config: Config) -> dict[str, str]:
    """Return the paths of all input files by key."""
    sections = {
        "data.fidelity_datasets": config.data.fidelity_datasets,
        "data.val_fidelity_datasets": config.data.val_fidelity_datasets,
        "data.test_fidelity_datasets": config.data.test_fidelity_datasets,
        "data.sae.energy.files": config.data.sae.energy.files,
    }
    files = {f"{section}.{index}": path for section, paths in sections.items() for index, path in paths.items()}
    single = {"data.split_file": config.data.split_file, "load": config.load}
    return files | {key: path for key, path in single.items() if path is not None}


def check_files(files: Mapping[str, str]) -> Iterator[str]:
    """Yield a message for each input file, given by key, that does not exist or is not of its format."""
    for name, path in files.items():
        if not path.isprintable():
            yield f"{name} is {path!r}: expected a path of printable characters"
        elif "fidelity_datasets" in name and Path(path).is_dir():
            yield from _check_npz_folder(name, Path(path))
        elif name == "load" and is_folder(path):
            if not is_file(Path(path) / CONFIG_FILE):
                yield f"load: {path} is not a run folder: it contains no {CONFIG_FILE}"
        elif not is_file(path):
            yield f"{name}: no file {path}"
        elif "fidelity_datasets" in name:
            yield from _check_hdf5(name, Path(path))
        elif name == "load" and not _is_torch_file(Path(path)):
            yield f"load: {path} does not contain weights: expected a file written by torch.save"


def _is_torch_file(path: Path) -> bool:
    """Return whether a file begins like an archive, or like a pickle of early versions of torch."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def _check_npz_folder(name: str, path: Path) -> Iterator[str]:
    """Look for npz files; which of them are data is checked when they are read."""
    try:
        if not any(file.suffix == ".npz" for file in path.iterdir()):
            yield f"{name}: the folder {path} has no npz files named by numbers of atoms, such as 007.npz"
    except OSError as error:
        yield f"{name}: cannot read {path}: {error.strerror}"


def _check_hdf5(name: str, path: Path) -> Iterator[str]:
    """Look for the HDF5 signature at offset 0, and after a user block of 512, 1024, … bytes."""
    try:
        with path.open("rb") as file:
            for offset in (0, *(512 << n for n in range(8))):
                file.seek(offset)
                if file.read(8) == b"\x89HDF\r\n\x1a\n":
                    return
    except OSError as error:
        yield f"{name}: cannot read {path}: {error.strerror}"
    else:
        hint = "; give a folder of npz files, or convert it" if path.suffix == ".npz" else ""
        yield f"{name}: {path} is not an HDF5 file{hint}"
