"""Predictions of a trained model: total energies, forces and charges, from NumPy arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aimnet2mult.data.compositions import join_symbols
from aimnet2mult.data.reference_energies import sum_by_fidelity, sum_references
from aimnet2mult.errors import ConfigError, DataError
from aimnet2mult.models.one_fidelity import find_fidelity
from aimnet2mult.models.precision import has_double_weights
from aimnet2mult.models.saved_model import SavedModel, build_saved_model
from aimnet2mult.quantities import LABELS

__all__ = ["Predictor", "as_results"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Predictor:
    """A trained model, ready for predictions of one of its fidelities or all of them.

    Args:
        saved: The model.
        fidelity: Name of the fidelity to predict; may be left out if there is only one.
        device: Where to evaluate the model, such as ``cpu`` or ``cuda``; by default a GPU if there is one.

    Raises:
        ConfigError: There is no such fidelity, or there are several and none is given; or there is no such device.
        ModelError: The model cannot be built.
    """

    def __init__(self, saved: SavedModel, fidelity: str | None = None, device: str = "auto") -> None:
        self.saved = saved
        self.index = find_fidelity(saved, fidelity)
        self.device = _find_device(device)
        labels = {label.name: label for label in saved.labels}
        if "energy" in labels:
            labels.setdefault("forces", LABELS["forces"])
        self.labels = tuple(labels.values())
        self._model = build_saved_model(replace(saved, labels=self.labels), self.device)
        # A model in float64 would otherwise see the coordinates rounded to seven digits.
        self._dtype = torch.float64 if has_double_weights(saved.state) else torch.float32

    @property
    def fidelity(self) -> str:
        """Name of the fidelity."""
        return self.saved.fidelity_names[self.index]

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that the fidelity was trained on."""
        return self.saved.elements_of(self.index)

    def __call__(
        self,
        numbers: npt.ArrayLike,
        coord: npt.ArrayLike,
        *,
        charge: npt.ArrayLike = 0.0,
        mult: npt.ArrayLike = 1.0,
        fidelities: Sequence[str] | None = None,
    ) -> dict[str, Floats]:
        """Predict all labels of some structures.

        Args:
            numbers: Atomic numbers (B, N), 0 for padding.
            coord: Coordinates (B, N, 3) in Å.
            charge: Total charges (B,) in e, or one for all.
            mult: Spin multiplicities (B,), or one for all.
            fidelities: The fidelity of each structure (B,), by default that of this object.

        Returns:
            Arrays by label, in the units of the training data: ``energy`` (B,) in eV with the reference energies,
            ``forces`` (B, N, 3) in eV/Å, ``charges`` and ``spin_charges`` (B, N) in e. A label that the training data
            of a fidelity lack is NaN, because its predictions for that fidelity were never compared with data.

        Raises:
            ConfigError: There is no such fidelity.
            DataError: The shapes do not fit, or there are elements that a fidelity was not trained on.
        """
        z, r = np.asarray(numbers, np.int64), np.asarray(coord, np.float64)
        if r.shape != (*z.shape, 3) or z.ndim == 1:
            raise DataError(f"numbers have the shape {z.shape} and coord {r.shape}; expected (B, N) and (B, N, 3)")
        names = [self.fidelity] * len(z) if fidelities is None else fidelities
        if len(names) != len(z):
            raise DataError(f"there are {len(names)} fidelities of {len(z)} structures")
        indices = np.array([find_fidelity(self.saved, name) for name in names], np.int64)
        self._check_elements(z, indices)
        batch = {
            "coord": torch.tensor(r, dtype=self._dtype),
            "numbers": torch.tensor(z),
            "charge": torch.tensor(np.broadcast_to(np.asarray(charge, np.float32), len(z))),
            "mult": torch.tensor(np.broadcast_to(np.asarray(mult, np.float32), len(z))),
            "fidelity": torch.tensor(indices),
        }
        found: dict[str, Tensor] = self._model({key: value.to(self.device) for key, value in batch.items()})
        values = {label.name: found[label.name].detach().cpu().double().numpy() for label in self.labels}
        if "energy" in values:
            values["energy"] = values["energy"] + sum_by_fidelity(z, indices, self.saved.reference_energies)
        self.saved.mask_untrained(values, indices)
        return values

    def reference(self, numbers: npt.ArrayLike) -> Floats:
        """Return the sums of the reference energies of structures with atomic numbers (B, N), as (B,) in eV."""
        return sum_references(np.asarray(numbers, np.int64), self.saved.reference_energies[self.index])

    def _check_elements(self, numbers: Integers, indices: Integers) -> None:
        for index in np.unique(indices).tolist():
            known = self.saved.elements_of(index)
            unknown = sorted(set(np.unique(numbers[indices == index]).tolist()) - known - {0})
            if unknown:
                raise DataError(
                    f"the fidelity {self.saved.fidelity_names[index]} was not trained on {join_symbols(unknown)}; its "
                    f"elements are {join_symbols(sorted(known))}"
                )


def _find_device(name: str) -> torch.device:
    """Return a device; ``auto`` is a GPU if there is one."""
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device {name!r}; use cpu, cuda or auto") from error
    if device.type == "cuda" and not (has_gpu and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(f"torch finds no CUDA device {name!r}; use cpu or auto")
    return device


def as_results(values: Mapping[str, Floats], row: int) -> dict[str, Any]:
    """Return the predictions of one structure, numbers as such."""
    return {name: array[row] if array.ndim > 1 else float(array[row]) for name, array in values.items()}
