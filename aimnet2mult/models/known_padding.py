"""Tell an AIMNet2 on a GPU whether a batch is padded, so that it need not wait for the GPU to find out."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from aimnet import nbops
from aimnet.models import AIMNet2
from torch import Tensor, nn

__all__ = ["knowing_padding", "use_known_padding"]

Data = dict[str, Tensor]

_is_padded: ContextVar[bool | None] = ContextVar("is_padded", default=None)


@contextmanager
def knowing_padding(numbers: Tensor) -> Iterator[None]:
    """Within this context, models with `use_known_padding` compute batches with these atomic numbers, (B, N).

    The models may compute parts of the batch, too. Numbers that are not on the CPU are not read.
    """
    token = _is_padded.set(bool((numbers == 0).any()) if numbers.device.type == "cpu" else None)
    try:
        yield
    finally:
        _is_padded.reset(token)


def use_known_padding(model: nn.Module) -> None:
    """Let each AIMNet2 in a model use what is known about the padding; the predictions do not change.

    For dense batches, aimnet skips the masks if there is no padding, and reads that from the device: once per batch,
    the training would wait until the GPU has finished all of the preceding iteration.
    """
    for module in model.modules():
        if type(module) is AIMNet2:
            # Another class for the same object: the names of the weights do not change.
            module.__class__ = _KnowsPadding


class _KnowsPadding(AIMNet2):  # type: ignore[misc] # aimnet has no types
    def prepare_input(self, data: Data) -> Data:
        is_padded = _is_padded.get()
        if is_padded is None:
            prepared: Data = super().prepare_input(data)
            return prepared
        # As for a trace, in which values are unknown: the masks are computed in any case.
        with nbops._symbolic_trace_context():  # noqa: SLF001 - there is no other way
            prepared = super().prepare_input(data)
        # On the CPU, where reading it waits for nothing.
        prepared["_input_padded"] = torch.tensor(is_padded)
        return prepared
