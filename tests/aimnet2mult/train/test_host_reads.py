"""`no_host_reads`, which other tests rely on, detects the likely kinds of host reads."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from support.host_reads import HostReadError, no_host_reads

READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "bool": lambda x: bool((x > 0).all()),
    "if": lambda x: 1 if x[0] else 0,
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": np.asarray,
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu", copy=True),
    "nonzero": lambda x: x.nonzero(),
    "boolean indexing": lambda x: x[x > 0],
    "boolean assignment": lambda x: x.index_put_((x > 0,), x.new_zeros(())),
    "setitem": lambda x: x.__setitem__(x > 0, 0.0),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "index": lambda x: [0, 1, 2][x.long()[0]],
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("read", READS)
def test_a_host_read_is_detected(read: str) -> None:
    x = torch.tensor([1.0, 2.0])
    with pytest.raises(HostReadError), no_host_reads():
        READS[read](x)
    READS[read](x)


def test_operations_that_stay_on_the_device_are_allowed() -> None:
    x = torch.tensor([1.0, -1.0], requires_grad=True)
    with no_host_reads():
        torch.where(x > 0, x, 0.0).sum().clamp(min=1).backward()
        torch.zeros(2).index_add_(0, torch.tensor([0, 1]), x.detach())
