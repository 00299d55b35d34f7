"""Conversion of files to the HDF5 layout that is trained on."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aimnet2mult.config.data_units import convertible, data_unit_factors, default_unit
from aimnet2mult.data.conversion.frames import Frame, read_frames
from aimnet2mult.data.conversion.names import Names
from aimnet2mult.data.conversion.structure import Structure, to_structure
from aimnet2mult.data.conversion.writer import check_absent, new_file
from aimnet2mult.data.file_format import FRAMES, OPTIONAL_INPUTS, array_type
from aimnet2mult.data.npz import NpzFolder
from aimnet2mult.data.places import counted
from aimnet2mult.data.report import Problems
from aimnet2mult.errors import DataError
from aimnet2mult.quantities import LABELS, Label

__all__ = ["Options", "convert"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the files do not say themselves."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Names in the files of inputs and labels, in place of the recognized ones."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Units in the files of ``coord`` and labels, if they are not those of the training."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """``charge`` and ``mult`` of structures without one."""
    labels: Mapping[str, Label] = field(default_factory=lambda: LABELS)
    """All labels by name."""
    ignore_cell: bool = False
    """Whether periodic structures are treated as isolated molecules."""


PROGRESS = 50_000
"""Number of structures after which a line of progress is printed."""


def convert(
    inputs: Sequence[Path], out: Path, options: Options, progress: Callable[[str], object] = lambda _: None
) -> list[str]:
    """Convert files, and return lines about what has been read and assumed.

    The structures are read one after the other, and written in blocks. The new file appears once it is complete.

    Args:
        inputs: The files, and folders of npz files.
        out: The new file.
        options: What the files do not say.
        progress: Called with a line about the progress now and then.

    Raises:
        ConfigError: A unit is unknown or has another dimension.
        DataError: There are problems, which the message lists, or the new file exists or cannot be written.
    """
    factors = data_unit_factors(options.units, "--unit ", options.labels)
    inputs = [file for path in inputs for file in _files(path)]
    _check_distinct(inputs)
    check_absent(out)
    source = _Source(options, factors)
    with new_file(out, options.labels) as writer:
        for structure in source.read(inputs):
            writer.add(structure)
            if source.count % PROGRESS == 0:
                progress(f"{source.count:,} structures …")
        source.raise_problems()
    return [f"wrote {out}: {counted(source.count, 'structure')}", *source.notes()]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if files := NpzFolder(path).files:
        return files
    raise DataError(f"the folder {path} contains no npz files")


def _check_distinct(inputs: Sequence[Path]) -> None:
    counts = Counter(path.resolve() for path in inputs)
    if repeated := [str(path) for path, count in counts.items() if count > 1]:
        raise DataError(f"given more than once: {', '.join(repeated)}")


class _Source:
    """The structures of files, with the problems and assumptions that come up while they are read."""

    def __init__(self, options: Options, factors: Mapping[str, float]) -> None:
        self.count = 0
        """Number of structures that have been converted."""
        self._options = options
        self._factors = factors
        self._names = Names(options.names, options.labels)
        self._problems = Problems()
        self._without: Counter[str] = Counter()
        self._first_without: dict[str, str] = {}
        self._not_finite: Counter[str] = Counter()
        self._first_not_finite: dict[str, str] = {}

    def read(self, inputs: Sequence[Path]) -> Iterator[Structure]:
        """Yield the structures of files, without those that have problems."""
        for path in inputs:
            try:
                for frame in read_frames(path, self._names):
                    yield from self._convert(frame)
            except DataError as error:
                self._problems.add("files that cannot be read", [str(error)])

    def raise_problems(self) -> None:
        """Raise one exception for all problems."""
        if self._names.found:
            for line in [*self._names.problems(), *self._incomplete_inputs()]:
                self._problems.add("names", [line])
        if len(self._problems):
            raise DataError("\n".join(self._problems.lines()))

    def notes(self) -> list[str]:
        """Describe where the values come from, and what has been assumed."""
        labels = self._options.labels
        units = {key: default_unit(key, labels) for key in convertible(labels)} | {**self._options.units}
        lines = [
            f"{key:<22}{', '.join(names)}{f' [{units[key]}]' if key in units else ''}"
            for key, names in self._names.used.items()
        ]
        for key, count in self._without.items():
            if key in self._options.defaults:
                lines.append(f"{key:<22}{self._options.defaults[key]:g} for {counted(count, 'structure')}, as stated")
            else:
                lines.append(f"{key:<22}not stated; training assumes {OPTIONAL_INPUTS[key]:g} (state it with --{key})")
        if missing := [label for label in labels if label not in self._names.used]:
            lines.append(f"{'no labels':<22}{', '.join(missing)}")
        for key, count in self._not_finite.items():
            example = f"{'' if count == 1 else 'such as '}{self._first_not_finite[key]}"
            lines.append(f"{key:<22}NaN or infinite in {counted(count, 'structure')} ({example}), treated as missing")
        if self._names.unused:
            lines.append(f"{'not converted':<22}{', '.join(self._names.unused)}")
        return [f"  {line}" for line in lines]

    def _convert(self, frame: Frame) -> Iterator[Structure]:
        """Yield the structure, or nothing if there are problems."""
        try:
            self._check_periodic(frame)
            structure = to_structure(frame, self._names, self._factors)
            number = np.asarray(self.count, array_type(FRAMES))
            self.count += 1
            self._count_labels(frame.place, structure)
            yield {**self._default_inputs(frame.place, structure), **structure, FRAMES: number}
        except DataError as error:
            lines = str(error).split("\n")
            self._problems.add("problems of structures", lines, len(lines))

    def _count_labels(self, place: str, structure: Structure) -> None:
        """Count the labels that are stated but are no numbers."""
        for key in structure.keys() & self._options.labels.keys():
            if not np.isfinite(structure[key]).all():
                self._not_finite[key] += 1
                self._first_not_finite.setdefault(key, place)

    def _check_periodic(self, frame: Frame) -> None:
        if frame.periodic and not self._options.ignore_cell:
            raise DataError(
                f"{frame.place}: the structure is periodic, but training treats it as an isolated molecule; leave it "
                "out, or convert it as it is with --ignore-cell"
            )

    def _default_inputs(self, place: str, structure: Structure) -> Structure:
        """Return the charge and multiplicity that a structure lacks, if they have been stated."""
        missing = [key for key in OPTIONAL_INPUTS if key not in structure]
        self._without.update(missing)
        for key in missing:
            self._first_without.setdefault(key, place)
        defaults = self._options.defaults
        return {key: np.asarray(defaults[key], array_type(key)) for key in missing if key in defaults}

    def _incomplete_inputs(self) -> Iterator[str]:
        for key, count in self._without.items():
            if count < self.count and key not in self._options.defaults:
                yield (
                    f"{self._first_without[key]}: no {key}, as in {count:,} of {counted(self.count, 'structure')}; "
                    f"state it for them with --{key}"
                )
