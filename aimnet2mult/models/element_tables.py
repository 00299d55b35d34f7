"""Tables of a model with one row for each atomic number, for elements beyond those that aimnet supports."""

import torch
from aimnet.models import AIMNet2
from aimnet.modules import AtomicShift
from torch import nn

__all__ = ["enlarge_tables"]


def enlarge_tables(model: AIMNet2, rows: int) -> None:
    """Enlarge the tables of a new AIMNet2 to a number of rows, which aimnet fixes at 64.

    The embedding is initialized as in aimnet, with orthogonal columns; the additional atomic shifts are drawn like the
    others.
    """
    weight = torch.zeros(rows, model.nfeature)
    nn.init.orthogonal_(weight[1:])
    if model.d2features:
        weight = weight.unsqueeze(-1).expand(rows, model.nfeature, model.nshifts_s).flatten(-2, -1)
    model.afv.weight = nn.Parameter(weight, requires_grad=model.afv.weight.requires_grad)
    model.afv.num_embeddings = rows
    for module in model.modules():
        if isinstance(module, AtomicShift) and module.shifts.num_embeddings < rows:
            _enlarge_shifts(module.shifts, rows)


def _enlarge_shifts(table: nn.Embedding, rows: int) -> None:
    weight = table.weight.new_empty(rows, 1).normal_()
    weight[: table.num_embeddings] = table.weight.detach()
    table.weight = nn.Parameter(weight, requires_grad=table.weight.requires_grad)
    table.num_embeddings = rows
