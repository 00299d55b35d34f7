"""AIMNet2 for several fidelities, which are distinguished by shifted atomic numbers and separate heads.

The embedding treats an atom of element Z in a structure of fidelity f as element ``Z + f * offset``. All layers between
the embedding and the outputs are shared.
"""

from collections.abc import Sequence
from typing import cast

import torch
from aimnet.models import AIMNet2
from aimnet.modules import AtomicShift, Output
from torch import Tensor, nn

from aimnet2mult.errors import ModelError

__all__ = ["FidelityOutput", "FidelityShift", "MixedFidelity"]

Data = dict[str, Tensor]

# Keys of the true and shifted atomic numbers in a batch, while it passes through the model.
_TRUE, _SHIFTED = "_true_numbers", "_shifted_numbers"


class MixedFidelity(nn.Module):
    """An AIMNet2 that reads the fidelity of each structure from ``fidelity`` (B,).

    All fidelities start with the same embedding. ``fidelity`` must be from 0 to ``n_fidelities`` - 1; this is not
    checked, because that would read from the device. Output modules see true atomic numbers.

    Args:
        models: AIMNet2 models with the same definition. The first one is modified and used. With one model per
            fidelity, each fidelity gets its own heads: the models provide the initial values, for every ``Output``
            and every row of an ``AtomicShift``. With a single model, heads are shared and the atomic shifts of all
            fidelities start with the same values.
        n_fidelities: Number of fidelities.
        offset: Shift of the atomic numbers per fidelity.

    Raises:
        ModelError: ``models[0]`` is not an AIMNet2, ``offset`` is smaller than the embedding, or there is no head that
            fidelities could have separately.
    """

    def __init__(self, models: Sequence[nn.Module], *, n_fidelities: int, offset: int) -> None:
        super().__init__()
        model = models[0]
        if not isinstance(model, AIMNet2):
            raise ModelError(f"several fidelities require an aimnet.models.AIMNet2, not a {type(model).__name__}")
        rows = model.afv.num_embeddings
        if offset < rows:
            raise ModelError(f"fidelity_offset is {offset}; set it to at least {rows}, the size of the embedding")
        self.offset = offset
        self.n_fidelities = n_fidelities
        _enlarge(model.afv, [model.afv.weight] * n_fidelities, offset)
        model.outputs = _mixed_outputs(cast("Sequence[AIMNet2]", models), n_fidelities, offset)
        self.model = model

    def extra_repr(self) -> str:
        """Return the arguments for ``repr``."""
        return f"n_fidelities: {self.n_fidelities}, offset: {self.offset}"

    def forward(self, data: Data) -> Data:
        """Add the predictions to ``data``."""
        numbers = data["numbers"].long()
        data[_TRUE] = numbers
        # Padding stays 0, because masks are derived from it.
        data[_SHIFTED] = torch.where(numbers == 0, numbers, numbers + self.offset * _fidelity_of_atoms(data))
        data["numbers"] = data[_SHIFTED]
        return cast("Data", self.model(data))


class FidelityOutput(nn.Module):
    """One ``Output`` per fidelity.

    All heads are evaluated for all atoms and one is selected, because indexing atoms would read from the device. The
    inputs of a head are zero for atoms of other fidelities, and its values for them are discarded: nothing, not even a
    NaN, leaks from one fidelity to the values or gradients of another.
    """

    def __init__(self, heads: Sequence[Output]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.key_in = heads[0].key_in
        self.key_out = heads[0].key_out

    def forward(self, data: Data) -> Data:
        """Add the output of each atom's own head to ``data``."""
        inputs = data[self.key_in]
        fidelity = _fidelity_of_atoms(data)
        selected: Tensor | None = None
        for index, head in enumerate(self.heads):
            mask = fidelity == index
            own_inputs = torch.where(mask.unsqueeze(-1), inputs, 0.0)
            value = head({**data, self.key_in: own_inputs})[self.key_out]
            mask = mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim))
            selected = torch.where(mask, value, 0.0 if selected is None else selected)
        data[self.key_out] = cast("Tensor", selected)
        return data


class FidelityShift(AtomicShift):  # type: ignore[misc] # aimnet has no types
    """An ``AtomicShift`` with one row per shifted atomic number."""

    def forward(self, data: Data) -> Data:
        """Add the shifts to ``data``, and leave the true atomic numbers in it."""
        data["numbers"] = data[_SHIFTED]
        data = super().forward(data)
        data["numbers"] = data[_TRUE]
        return data


class _TrueNumbers(nn.Module):
    """A module that restores the true atomic numbers for later outputs, because they determine masses and radii."""

    def forward(self, data: Data) -> Data:
        data["numbers"] = data[_TRUE]
        return data


def _fidelity_of_atoms(data: Data) -> Tensor:
    """Return ``fidelity`` in a shape that broadcasts to atoms: (B, 1), or (atoms,) for flat batches."""
    fidelity = data["fidelity"].long()
    return fidelity[data["mol_idx"].long()] if data["numbers"].ndim == 1 else fidelity.unsqueeze(-1)


def _mixed_outputs(models: Sequence[AIMNet2], n_fidelities: int, offset: int) -> nn.ModuleDict:
    # Names, and therefore the keys of the state dict, do not change.
    mixed: dict[str, nn.Module] = {"true_numbers": _TrueNumbers()}
    for name, first in models[0].outputs.named_children():
        modules = [model.outputs.get_submodule(name) for model in models]
        if isinstance(first, AtomicShift):
            mixed[name] = _mixed_shift(modules, n_fidelities, offset)
        elif isinstance(first, Output) and len(modules) > 1:
            mixed[name] = FidelityOutput(modules)
        else:
            mixed[name] = first
    if len(models) > 1 and not any(isinstance(module, FidelityOutput) for module in mixed.values()):
        raise ModelError("use_fidelity_readouts is true, but the model has no aimnet.modules.Output among its outputs")
    return nn.ModuleDict(mixed)


def _mixed_shift(shifts: Sequence[AtomicShift], n_fidelities: int, offset: int) -> FidelityShift:
    first = shifts[0]
    table = first.shifts
    mixed = FidelityShift(first.key_in, first.key_out, table.num_embeddings, reduce_sum=first.reduce_sum)
    mixed.shifts = table
    _enlarge(table, [shift.shifts.weight for shift in shifts] * (n_fidelities // len(shifts)), offset)
    return mixed


def _enlarge(table: nn.Embedding, weights: Sequence[Tensor], offset: int) -> None:
    """Resize the table so that row ``f * offset + Z`` is row Z of ``weights[f]``; other rows are zero."""
    rows, columns = weights[0].shape
    enlarged = weights[0].new_zeros(offset * (len(weights) - 1) + rows, columns)
    for fidelity, weight in enumerate(weights):
        enlarged[fidelity * offset : fidelity * offset + rows] = weight.detach()
    table.weight = nn.Parameter(enlarged, requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(enlarged)
