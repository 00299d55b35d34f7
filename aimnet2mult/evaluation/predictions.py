"""Writing of predictions to HDF5 files with the layout of the data files."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aimnet2mult.data.conversion.writer import OutputFile
from aimnet2mult.data.file_format import FRAMES, FileFormat, array_type
from aimnet2mult.data.layout import SizeGroup, open_file, read_frames, read_layout, read_rows
from aimnet2mult.data.places import Places
from aimnet2mult.errors import DataError
from aimnet2mult.evaluation.gathering import GatheredBatch, add_references
from aimnet2mult.quantities import Label
from telemetry.errors import error_text

__all__ = ["PredictionWriter", "writing_predictions"]

Array = npt.NDArray[Any]
SOURCE_UNITS = {"energy": "eV", "forces": "eV/Å", "coord": "Å"}
"""Units of arrays in files that need no conversion."""


@contextlib.contextmanager
def writing_predictions(
    folder: Path,
    places: Places,
    labels: Sequence[Label],
    *,
    file_format: FileFormat,
    units: Mapping[str, str],
    references: Sequence[Mapping[int, float]],
) -> Iterator["PredictionWriter"]:
    """Write a file with predictions for each data file, with its groups, rows, names and units.

    A label is NaN for structures that are not evaluated. The inputs are copied, so the files are data files themselves.

    Args:
        folder: Folder of the new files, which are named after the data files.
        places: The places of all structures.
        labels: Labels that the model predicts.
        file_format: Names and units of the arrays.
        units: Units of energy, forces and coordinates in the data files.
        references: Reference energies in eV, for each fidelity.

    Raises:
        DataError: A file cannot be written.
    """
    paths = list(dict.fromkeys(segment.path for segment in places.segments))
    names = _file_names(paths)
    try:
        with contextlib.ExitStack() as stack:
            outputs = [stack.enter_context(OutputFile(folder / name, "x+")) for name in names]
            files = {path: stack.enter_context(h5py.File(out, "w")) for path, out in zip(paths, outputs, strict=True)}
            writer = PredictionWriter(files, places, labels, file_format, units, references)
            for path in paths:
                writer.prepare(path)
            yield writer
            for file in files.values():
                file.close()
            for output in outputs:
                output.check()
                os.fsync(output.fileno())
    except OSError as error:
        raise DataError(f"cannot write predictions to {folder}: {error.strerror or error_text(error)}") from error


def _file_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the new files, with a number if several data files have the same name."""
    names: list[str] = []
    for path in paths:
        name, number = f"{path.stem}.h5", 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}.h5"
        names.append(name)
    return names


class PredictionWriter:
    """The open files; see `writing_predictions`."""

    def __init__(
        self,
        files: Mapping[Path, h5py.File],
        places: Places,
        labels: Sequence[Label],
        file_format: FileFormat,
        units: Mapping[str, str],
        references: Sequence[Mapping[int, float]],
    ) -> None:
        self._files = files
        self._places = places
        self._labels = labels
        self._format = file_format
        self._units = {**{label.name: label.source_unit for label in labels}, **SOURCE_UNITS, **units}
        self._references = references

    def prepare(self, path: Path) -> None:
        """Copy the inputs of a data file, and create the arrays of the labels."""
        with open_file(path) as file:
            for group in read_layout(path, file, (), self._format).groups:
                new = self._files[path].create_group(group.name)
                for key in group.arrays:
                    self._copy(new, group, key)
                frames = read_frames(group)
                if frames is not None:
                    new.create_dataset(FRAMES, data=frames.astype(array_type(FRAMES)))
                for label in self._labels:
                    shape = label.shape(group.rows, group.atoms)
                    array = new.create_dataset(
                        self._format.name(label.name), shape, array_type(label.name), fillvalue=np.nan
                    )
                    array.attrs["unit"] = self._units[label.name]

    def receive(self, batch: GatheredBatch) -> None:
        """Write the predictions of a batch."""
        origins = batch.arrays["origin"]
        segments = np.searchsorted(self._places.starts, origins, side="right") - 1
        for index in np.unique(segments).tolist():
            segment, chosen = self._places.segments[index], np.flatnonzero(segments == index)
            # HDF5 writes rows in ascending order only.
            chosen = chosen[np.argsort(origins[chosen])]
            rows = origins[chosen] - self._places.starts[index]
            group = self._files[segment.path][segment.group]
            for label in self._labels:
                values = batch.predictions[label.name]
                if label.name == "energy":
                    values = add_references(values, batch.arrays, self._references)
                array = group[self._format.name(label.name)]
                atoms = slice(int(segment.group)) if label.per_atom else slice(None)
                part = values[chosen][:, atoms] if label.per_atom else values[chosen]
                array[rows] = part / self._format.factors.get(label.name, 1.0)

    def _copy(self, new: h5py.Group, group: SizeGroup, key: str) -> None:
        source = group.arrays[key]
        array = new.create_dataset(self._format.name(key), source.shape, source.dtype)
        if key in self._units:
            array.attrs["unit"] = self._units[key]
        for rows in group.blocks():
            array[rows] = read_rows(group, key, rows, self._format)
