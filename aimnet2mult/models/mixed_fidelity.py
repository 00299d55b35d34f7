"""One AIMNet2 for several fidelities, by shifted atomic numbers and heads of their own.

An atom of element Z in a structure of fidelity f is, to the embedding, the element
``Z + f * offset``. Everything after the embedding is shared, up to the outputs.
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

# Where a batch keeps both kinds of atomic numbers while it goes through the model.
_TRUE, _SHIFTED = "_true_numbers", "_shifted_numbers"


class MixedFidelity(nn.Module):
    """An AIMNet2 that reads the fidelity of each structure from ``fidelity`` (B,).

    ``models`` are AIMNet2 of one definition. The first is taken over. The others, one for each
    further fidelity, lend the initial values of the heads, where each fidelity has its own: every
    ``Output`` and every row of an ``AtomicShift``. With the first alone heads are shared, and all
    fidelities begin with the same atomic shifts. All fidelities begin with the same embedding.

    Fidelities outside of 0 … ``n_fidelities`` - 1 are the caller's mistake; they are not looked for,
    as that would read from the device. Output modules see true atomic numbers.

    Raises ``ModelError`` if ``models[0]`` is no AIMNet2, if ``offset`` would let the elements of two
    fidelities collide, or if heads are asked for and there are none.
    """

    def __init__(self, models: Sequence[nn.Module], *, n_fidelities: int, offset: int) -> None:
        super().__init__()
        model = models[0]
        if not isinstance(model, AIMNet2):
            raise ModelError(f"several fidelities need an aimnet.models.AIMNet2, not a {type(model).__name__}")
        rows = model.afv.num_embeddings
        if offset < rows:
            raise ModelError(f"fidelity_offset {offset} is too small: the embedding has {rows} elements")
        self.offset = offset
        self.n_fidelities = n_fidelities
        _enlarge(model.afv, [model.afv.weight] * n_fidelities, offset)
        model.outputs = _mixed_outputs(cast("Sequence[AIMNet2]", models), n_fidelities, offset)
        self.model = model

    def extra_repr(self) -> str:
        return f"n_fidelities: {self.n_fidelities}, offset: {self.offset}"

    def forward(self, data: Data) -> Data:
        """Return ``data`` with the predictions, as AIMNet2 does."""
        numbers = data["numbers"].long()
        data[_TRUE] = numbers
        # The 0 of padding stays: it is what masks are made of.
        data[_SHIFTED] = torch.where(numbers == 0, numbers, numbers + self.offset * _fidelity_of_atoms(data))
        data["numbers"] = data[_SHIFTED]
        return cast("Data", self.model(data))


class FidelityOutput(nn.Module):
    """One ``Output`` a fidelity, of which each structure gets its own.

    All heads are computed for all atoms and one is selected, as picking atoms would read from the
    device. A head is given zeros for the atoms that are not its own, and what it makes of them is
    dropped: nothing of one fidelity, not even a NaN, reaches another's head, value or gradient.
    """

    def __init__(self, heads: Sequence[Output]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.key_in = heads[0].key_in
        self.key_out = heads[0].key_out

    def forward(self, data: Data) -> Data:
        inputs = data[self.key_in]
        fidelity = _fidelity_of_atoms(data)
        selected: Tensor | None = None
        for index, head in enumerate(self.heads):
            own = fidelity == index
            own_inputs = torch.where(own.unsqueeze(-1), inputs, 0.0)
            value = head({**data, self.key_in: own_inputs})[self.key_out]
            own = own.reshape(own.shape + (1,) * (value.ndim - own.ndim))
            selected = torch.where(own, value, 0.0 if selected is None else selected)
        data[self.key_out] = cast("Tensor", selected)
        return data


class FidelityShift(AtomicShift):  # type: ignore[misc] # aimnet has no types
    """An ``AtomicShift`` that is looked up by shifted atomic numbers."""

    def forward(self, data: Data) -> Data:
        data["numbers"] = data[_SHIFTED]
        data = super().forward(data)
        data["numbers"] = data[_TRUE]
        return data


class _TrueNumbers(nn.Module):
    """Gives the output modules after it the atomic numbers that masses and radii go by."""

    def forward(self, data: Data) -> Data:
        data["numbers"] = data[_TRUE]
        return data


def _fidelity_of_atoms(data: Data) -> Tensor:
    """Return ``fidelity`` so that it broadcasts to atoms: (B, 1), or (atoms,) for flat batches."""
    fidelity = data["fidelity"].long()
    return fidelity[data["mol_idx"].long()] if data["numbers"].ndim == 1 else fidelity.unsqueeze(-1)


def _mixed_outputs(models: Sequence[AIMNet2], n_fidelities: int, offset: int) -> nn.ModuleDict:
    # Names are kept, and with them the keys of the state: only what is added has a new one.
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
        raise ModelError("use_fidelity_readouts is set, but the model has no aimnet.modules.Output among its outputs")
    return nn.ModuleDict(mixed)


def _mixed_shift(shifts: Sequence[AtomicShift], n_fidelities: int, offset: int) -> FidelityShift:
    first = shifts[0]
    table = first.shifts
    mixed = FidelityShift(first.key_in, first.key_out, table.num_embeddings, reduce_sum=first.reduce_sum)
    mixed.shifts = table
    _enlarge(table, [shift.shifts.weight for shift in shifts] * (n_fidelities // len(shifts)), offset)
    return mixed


def _enlarge(table: nn.Embedding, weights: Sequence[Tensor], offset: int) -> None:
    """Let row ``f * offset + Z`` of the table be row Z of ``weights[f]``; rows between are zero."""
    rows, columns = weights[0].shape
    enlarged = weights[0].new_zeros(offset * (len(weights) - 1) + rows, columns)
    for fidelity, weight in enumerate(weights):
        enlarged[fidelity * offset : fidelity * offset + rows] = weight.detach()
    table.weight = nn.Parameter(enlarged, requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(enlarged)
