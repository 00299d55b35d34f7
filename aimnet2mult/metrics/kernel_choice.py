"""The decision whether error sums are computed by Warp kernels."""

import functools
import logging
import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aimnet2mult.metrics.batch import Batch
from aimnet2mult.metrics.layout import Layout
from aimnet2mult.metrics.torch_update import TorchUpdate
from telemetry.errors import format_error

if TYPE_CHECKING:
    from aimnet2mult.metrics.fused_update import FusedUpdate

__all__ = ["build_fused_update"]

logger = logging.getLogger(__name__)


def build_fused_update(
    sums: Tensor, layout: Layout, reference: TorchUpdate, *, skipped_steps: int
) -> "FusedUpdate | None":
    """Compile the kernels and compare them with torch; return None, with a warning, if they cannot be used here.

    Args:
        sums: see `FusedUpdate`; they must be 0, and are 0 afterwards.
        layout: see `FusedUpdate`.
        reference: the same sums in torch.
        skipped_steps: see `FusedUpdate`.
    """
    if sums.device.type not in {"cpu", "cuda"}:
        return None
    try:
        # Without a kernel, training is possible as well.
        from aimnet2mult.metrics.fused_update import FusedUpdate

        fused = FusedUpdate(sums, layout, skipped_steps=skipped_steps)
        if _agree(fused, reference, sums, layout):
            return fused
        _warn("its sums differ from those of torch", _remedy())
    except (ImportError, ValueError) as error:
        _warn(format_error(error))
    except Exception as error:  # noqa: BLE001 - whatever a compiler may raise
        _warn(format_error(error), _remedy())
    return None


def _remedy() -> str:
    """Return what to do if a compiled kernel is damaged, for example by a power failure."""
    folder = getattr(getattr(sys.modules.get("warp"), "config", None), "kernel_cache_dir", None)
    return f"; if this persists, remove the compiled kernels in {folder}" if folder else ""


@functools.cache
def _warn(problem: str, remedy: str = "") -> None:
    """Log a warning, once per process."""
    logger.warning("the Warp kernel for the error sums cannot be used (%s); torch computes them%s", problem, remedy)


def _agree(fused: "FusedUpdate", reference: TorchUpdate, sums: Tensor, layout: Layout) -> bool:
    batch = _sample(layout, sums.device)
    if not fused.add(batch):
        return False
    found = sums.clone()
    sums.zero_()
    reference.add(batch)
    agree = torch.allclose(found, sums, rtol=1e-12, atol=0)
    sums.zero_()
    return agree


def _sample(layout: Layout, device: torch.device) -> Batch:
    """Return a batch with padding and a missing label."""
    structures, atoms = 3, 2
    arrays = {}
    for label in layout.labels:
        shape = label.shape(structures, atoms)
        arrays[label.name] = torch.arange(1, 1 + torch.Size(shape).numel(), device=device).view(shape) / 8
    true = {
        name: array.index_fill(0, torch.zeros(1, dtype=torch.int64, device=device), torch.nan)
        for name, array in arrays.items()
    }
    pred = {name: array.square() for name, array in arrays.items()}
    numbers = torch.tensor([[1, 1], [1, 1], [1, 0]], device=device)
    fidelity = torch.arange(structures, device=device) % layout.fidelities
    return Batch(pred, true, numbers, fidelity)
