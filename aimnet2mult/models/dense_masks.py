"""Let an AIMNet2 on a GPU compute its masks without reading from the GPU."""

import torch
from aimnet import nbops
from aimnet.models import AIMNet2
from torch import Tensor, nn

from aimnet2mult.models.known_padding import is_padded

__all__ = ["use_known_padding"]

Data = dict[str, Tensor]


def use_known_padding(model: nn.Module) -> None:
    """Let each AIMNet2 in a model rely on `knowing_padding`; the predictions do not change.

    For dense batches, aimnet skips the masks if there is no padding, and reads that from the device: once per batch,
    the training would wait until the GPU has finished all of the preceding iteration.
    """
    for module in model.modules():
        if type(module) is AIMNet2:
            # Another class for the same object: the names of the weights do not change.
            module.__class__ = _KnowsPadding


class _KnowsPadding(AIMNet2):  # type: ignore[misc] # aimnet has no types
    def prepare_input(self, data: Data) -> Data:
        known = is_padded()
        if known is None:
            prepared: Data = super().prepare_input(data)
            return prepared
        # As for a trace, in which values are unknown: the masks are computed in any case.
        with nbops._symbolic_trace_context():  # noqa: SLF001 - there is no other way
            prepared = super().prepare_input(data)
        # On the CPU, where reading it waits for nothing.
        prepared["_input_padded"] = torch.tensor(known)
        return prepared
