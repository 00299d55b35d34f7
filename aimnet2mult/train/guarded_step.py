"""Optimizer steps that take effect only if a flag, which says whether loss and gradient are finite, is true.

On the CPU the flag is read, which costs nothing. Elsewhere training would have to wait for the device, so the step is
always computed, and undone on the device if the flag is false.
"""

import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["GuardedStep", "MaskedStep", "ReadStep", "guarded_step"]

GuardedStep = Callable[[Tensor], None]
"""Function of a flag, a scalar boolean tensor, that applies a step of an optimizer if the flag is true."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type by size in bytes."""


def guarded_step(optimizer: Optimizer, device: torch.device) -> GuardedStep:
    """Return the guarded step of an optimizer whose parameters are on ``device``."""
    # If the first step is skipped, torch takes the schedule for one that steps too early.
    warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before", UserWarning)
    return ReadStep(optimizer) if device.type == "cpu" else MaskedStep(optimizer)


class ReadStep:
    """A step that reads its flag."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def __call__(self, ok: Tensor) -> None:
        """Step if ``ok`` is true."""
        if ok:
            self._optimizer.step()


class MaskedStep:
    """A step that reads its flag only if a parameter has a gradient for the first time.

    If the flag is false, parameters and state on its device keep exactly their bits. Plain numbers and state on another
    device are not restored: optimizers of torch keep their step count on the CPU unless they are ``capturable`` or
    ``fused``, and it then includes the steps that were undone. The optimizer must update its state in place.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self._seen: set[Tensor] = set()
        self._bits: list[list[Tensor]] = []
        self._saved: list[list[Tensor]] = []

    @torch.no_grad()
    def __call__(self, ok: Tensor) -> None:
        """Step if ``ok`` is true."""
        new = [p for p in self._parameters if p.grad is not None and p not in self._seen]
        if new:
            # The step creates state, which has no earlier value to return to.
            if ok:
                self._optimizer.step()
                self._seen.update(new)
                self._allocate(ok.device)
            return
        for bits, saved in zip(self._bits, self._saved, strict=True):
            torch._foreach_copy_(saved, bits)
        self._optimizer.step()
        for bits, saved in zip(self._bits, self._saved, strict=True):
            _undo_unless(ok, bits, saved)

    def _allocate(self, device: torch.device) -> None:
        state = [value for values in self._optimizer.state.values() for value in values.values()]
        tensors = [t for t in (*self._parameters, *state) if isinstance(t, Tensor) and t.device == device]
        self._bits = _integer_views(tensors)
        self._saved = [[torch.empty_like(view) for view in views] for views in self._bits]


def _integer_views(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return views of the bits of tensors as integers, grouped by their type."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        dtype = _INTEGERS[tensor.element_size()]
        groups.setdefault(dtype, []).append(tensor.detach().view(dtype))
    return list(groups.values())


def _undo_unless(ok: Tensor, bits: list[Tensor], saved: list[Tensor]) -> None:
    """Set ``bits`` to ``saved`` if ``ok`` is false.

    bits = saved + ok · (bits - saved) is exact in integers, even where ``bits`` are those of a NaN, and takes three
    kernels, whatever the number of tensors.
    """
    torch._foreach_sub_(bits, saved)
    torch._foreach_mul_(bits, ok.to(bits[0].dtype))
    torch._foreach_add_(bits, saved)
