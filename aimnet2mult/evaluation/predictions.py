"""Writing of predictions to HDF5 files with the layout of the data files."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from aimnet2mult.config.data_units import DEFAULT_UNITS
from aimnet2mult.data.conversion.writer import OutputFile
from aimnet2mult.data.file_format import FRAMES, FileFormat, array_type
from aimnet2mult.data.layout import open_file, read_frames, read_layout, read_rows
from aimnet2mult.data.places import Places
from aimnet2mult.data.reference_energies import sum_by_fidelity
from aimnet2mult.evaluation.gathering import GatheredBatch
from aimnet2mult.models.description import Description
from aimnet2mult.quantities import Label

__all__ = ["PredictionWriter", "writing_predictions"]

Array = npt.NDArray[Any]


@contextlib.contextmanager
def writing_predictions(
    folder: Path,
    places: Places,
    model: Description,
    *,
    file_format: FileFormat,
    units: Mapping[str, str],
) -> Iterator["PredictionWriter"]:
    """Write a file with predictions for each data file, with its groups, rows, names and units.

    A label is NaN for structures that are not evaluated, and for fidelities whose training data lack it. The inputs are
    copied, so the files are data files themselves.

    Args:
        folder: Folder of the new files, which are named after the data files.
        places: The places of all structures.
        model: Description of the model.
        file_format: Names and units of the arrays.
        units: Units of energy, forces and coordinates in the data files.

    Raises:
        OSError: A file cannot be written.
    """
    sources = _sources(places)
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(OutputFile(folder / name, "x+")) for name in _file_names(places, sources)]
        files = [stack.enter_context(h5py.File(output, "w")) for output in outputs]
        for file, indices in zip(files, sources, strict=True):
            _prepare(file, places.segments[indices[0]].path, model.labels, file_format, units)
        by_segment = [file for file, indices in zip(files, sources, strict=True) for _ in indices]
        yield PredictionWriter(by_segment, places, model, file_format=file_format)
        for file in files:
            file.close()
        for output in outputs:
            output.check()
            os.fsync(output.fileno())


def _sources(places: Places) -> list[list[int]]:
    """Return the indices of the segments of each data file; a file that is given twice counts twice."""
    sources: list[list[int]] = []
    seen: set[tuple[Path, str]] = set()
    for index, segment in enumerate(places.segments):
        key = (segment.path, segment.group)
        if not sources or places.segments[sources[-1][0]].path != segment.path or key in seen:
            seen.clear()
            sources.append([])
        seen.add(key)
        sources[-1].append(index)
    return sources


def _file_names(places: Places, sources: Sequence[Sequence[int]]) -> list[str]:
    """Return the names of the new files, with a number if several data files have the same name."""
    names: list[str] = []
    for indices in sources:
        stem, number = places.segments[indices[0]].path.stem, 1
        name = f"{stem}.h5"
        while name in names:
            number += 1
            name = f"{stem}-{number}.h5"
        names.append(name)
    return names


def _prepare(
    new: h5py.File, path: Path, labels: Sequence[Label], file_format: FileFormat, units: Mapping[str, str]
) -> None:
    """Copy the inputs of a data file, and create the arrays of the labels."""
    unit_of = {**{label.name: label.source_unit for label in labels}, **DEFAULT_UNITS, **units}
    with open_file(path) as file:
        for group in read_layout(path, file, (), file_format).groups:
            arrays = new.create_group(group.name)
            for key, source in group.arrays.items():
                array = arrays.create_dataset(file_format.name(key), source.shape, source.dtype)
                for rows in group.blocks():
                    array[rows] = read_rows(group, key, rows, file_format)
            if (frames := read_frames(group)) is not None:
                arrays[FRAMES] = frames.astype(array_type(FRAMES))
            for label in labels:
                shape, name = label.shape(group.rows, group.atoms), file_format.name(label.name)
                arrays.create_dataset(name, shape, array_type(label.name), fillvalue=np.nan)
            for key, unit in unit_of.items():
                if (name := file_format.name(key)) in arrays:
                    arrays[name].attrs["unit"] = unit


class PredictionWriter:
    """Writes predictions to open files.

    Args:
        files: The file of each segment.
        places: The places of all structures.
        model: Description of the model.
        file_format: Names and units of the arrays.
    """

    def __init__(
        self,
        files: Sequence[h5py.File],
        places: Places,
        model: Description,
        *,
        file_format: FileFormat,
    ) -> None:
        self._files = files
        self._places = places
        self._model = model
        self._format = file_format

    def receive(self, batch: GatheredBatch) -> None:
        """Write the predictions of a batch."""
        fidelity, model = batch.arrays["fidelity"], self._model
        values = {name: array.copy() for name, array in batch.predictions.items()}
        if "energy" in values:
            values["energy"] += sum_by_fidelity(batch.arrays["numbers"], fidelity, model.reference_energies)
        model.mask_untrained(values, fidelity)
        origins = batch.arrays["origin"]
        segments = np.searchsorted(self._places.starts, origins, side="right") - 1
        for index in np.unique(segments).tolist():
            chosen = np.flatnonzero(segments == index)
            # HDF5 writes rows in ascending order only.
            chosen = chosen[np.argsort(origins[chosen])]
            self._write(index, origins[chosen] - self._places.starts[index], chosen, values)

    def _write(
        self, index: int, rows: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], values: Mapping[str, Array]
    ) -> None:
        """Write the chosen structures of a batch to the rows of a segment."""
        name = self._places.segments[index].group
        for label in self._model.labels:
            part = values[label.name][chosen]
            # Training data of several sizes may have been merged with padding.
            part = part[:, : int(name)] if label.per_atom else part
            array = self._files[index][name][self._format.name(label.name)]
            array[rows] = part / self._format.factors.get(label.name, 1.0)
