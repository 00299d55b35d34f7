"""The files of an evaluation."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aimnet2mult.data.dataset import INPUTS, read_blocks
from aimnet2mult.data.file_format import FileFormat
from aimnet2mult.data.rank_share import load_rows
from aimnet2mult.data.reference_energies import sum_by_fidelity
from aimnet2mult.errors import DataError
from aimnet2mult.evaluation.gathering import Receiver
from aimnet2mult.evaluation.plots import Panels, draw_errors, draw_parity
from aimnet2mult.evaluation.points import PointSample
from aimnet2mult.evaluation.predictions import writing_predictions
from aimnet2mult.evaluation.request import Request
from aimnet2mult.evaluation.results import Result, WorstStructure
from aimnet2mult.evaluation.setup import Setup
from aimnet2mult.evaluation.xyz import make_atoms, write_xyz
from aimnet2mult.train.display_units import DisplayUnits
from aimnet2mult.train.engine import to_device

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Outputs", "open_outputs"]


@contextlib.contextmanager
def open_outputs(folder: Path | None, request: Request, setup: Setup) -> Iterator["Outputs"]:
    """Open the files that are written during the evaluation; without a folder, nothing is written.

    Raises:
        OSError: A file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        receivers: list[Receiver] = []
        sample = None
        if folder is not None and request.plots:
            sample = PointSample(setup.saved.labels, len(setup.saved.fidelity_names))
            receivers.append(sample)
        if folder is not None and request.predictions:
            (folder / "predictions").mkdir()
            writer = writing_predictions(
                folder / "predictions",
                setup.data.places,
                setup.saved,
                file_format=FileFormat.from_config(setup.config),
                units=setup.config.data.units,
            )
            receivers.append(stack.enter_context(writer))
        yield Outputs(folder, setup, receivers, sample)


class Outputs:
    """The files of an evaluation; see `open_outputs`.

    Args:
        folder: the folder; None to write nothing.
        setup: what is evaluated.
        receivers: receivers of the predictions.
        sample: the points of the plots, if there are any.
    """

    def __init__(
        self, folder: Path | None, setup: Setup, receivers: Sequence[Receiver], sample: PointSample | None
    ) -> None:
        self.receivers = receivers
        self._folder = folder
        self._setup = setup
        self._sample = sample

    def finish(self, result: Result, units: DisplayUnits) -> None:
        """Write the results, the structures with the largest errors, and the plots."""
        if self._folder is None:
            return
        text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False)
        (self._folder / "results.json").write_text(f"{text}\n", encoding="utf-8")
        names = {label.abbr: label.name for label in self._setup.saved.labels}
        for abbreviation, structures in result.worst.items():
            if structures:
                found = [self._atoms(structure, units.unit(f"{abbreviation}_max")) for structure in structures]
                write_xyz(self._folder / f"worst-{names[abbreviation]}.xyz", found)
        if self._sample is not None:
            panels = Panels(
                sample=self._sample,
                labels=self._setup.saved.labels,
                names=self._setup.saved.fidelity_names,
                units=units,
                result=result,
            )
            draw_parity(self._folder / "parity.png", panels)
            draw_errors(self._folder / "errors.png", panels)

    def _atoms(self, structure: WorstStructure, unit: str) -> "Atoms":
        """Return a structure with its labels and predictions."""
        arrays, predictions = self._predict(structure.origin)
        energies = self._setup.saved.reference_energies
        per_atom: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for label in self._setup.saved.labels:
            for name, found in ((label.name, arrays), (f"predicted_{label.name}", predictions)):
                array = found[label.name]
                if label.name == "energy":
                    array = array + sum_by_fidelity(arrays["numbers"], arrays["fidelity"], energies)
                (per_atom if label.per_atom else values)[name] = array[0]
        info = {
            "charge": int(arrays["charge"][0]),
            "mult": int(arrays["mult"][0]),
            "error": structure.error,
            "error_unit": unit,
            "fidelity": structure.fidelity,
            "file": structure.file,
            "group": structure.group,
            "row": structure.row,
            "frame": structure.frame,
        }
        numbers, coord = arrays["numbers"][0], arrays["coord"][0]
        return make_atoms(numbers, coord, per_atom=per_atom, values=values, info=info)

    def _predict(self, origin: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays of a structure, and its predictions."""
        labels = [label.name for label in self._setup.saved.labels]
        for dataset in self._setup.data.datasets:
            for size, group in dataset.items():
                # Finding it reads no file.
                origins = np.concatenate([block["origin"] == origin for block in read_blocks(group, ["origin"])])
                rows = np.flatnonzero(origins)
                if len(rows):
                    x, y = to_device(load_rows(dataset, size, rows, x=INPUTS, y=labels), self._setup.device)
                    with torch.no_grad():
                        pred = self._setup.model(dict(x))
                    shapes = {label: y[label].shape for label in labels}
                    predictions = {label: pred[label].detach().reshape(shapes[label]).cpu().numpy() for label in labels}
                    return group.read(rows, [*INPUTS, *labels]), predictions
        raise DataError(f"there is no structure {origin}")
