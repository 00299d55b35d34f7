"""Error sums on a GPU agree with NumPy for every type, mask and layout, and repeat to the last digits."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimnet2mult.metrics.error_sums import ErrorSums, Slot
from aimnet2mult.metrics.masks import is_mask
from aimnet2mult.metrics.statistics import POOLED, VALIDATION, Selection, statistics
from support.labels import built_in

pytestmark = pytest.mark.gpu

LABELS = built_in("energy", "forces", "charges")
FIDELITIES = ("a", "b", "c")
SPREAD = 1e-12
"""Largest relative difference between repetitions: sums of float64 in another order."""
Batch = dict[str, Any]


def make_batch(structures: int, atoms: int, dtype: torch.dtype, mask: str, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    numbers = torch.randint(1, 9, (structures, atoms), generator=rng)
    numbers[torch.rand(numbers.shape, generator=rng) < 0.2] = 0
    true, pred = {}, {}
    for label in LABELS:
        shape = label.shape(structures, atoms)
        true[label.name] = torch.randn(shape, generator=rng).to(dtype)
        pred[label.name] = torch.randn(shape, generator=rng).to(dtype)
        true[label.name][torch.rand(structures, generator=rng) < 0.2] = torch.nan
    if mask != "none":
        shape = {"B": (structures,), "B1": (structures, 1), "BN": (structures, atoms), "BN1": (structures, atoms, 1)}
        for label in LABELS:
            own = mask if label.per_atom else mask.replace("N", "") if mask != "BN1" else "B1"
            true[f"{label.name}_mask"] = torch.rand(shape[own], generator=rng) < 0.7
    return {
        "pred": pred,
        "true": true,
        "numbers": numbers,
        "fidelity": torch.randint(len(FIDELITIES), (structures,), generator=rng),
    }


def lay_out(x: Tensor, layout: str, device: torch.device) -> Tensor:
    """Return the same values on the device, with other strides."""
    if layout == "reversed axes":
        axes = list(range(x.ndim))[::-1]
        return x.permute(axes).contiguous().to(device).permute(axes)
    if layout == "every second":
        return torch.stack((x, torch.zeros_like(x)), dim=1).to(device)[:, 0]
    if layout == "trailing axis" and x.ndim < 3:
        return x.to(device).unsqueeze(-1)
    return x.to(device)


def errors_of(batch: Batch, name: str, *, per_atom: bool) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the errors that count, and the fidelity of each."""
    pred, true = (batch[part][name].double().numpy() for part in ("pred", "true"))
    numbers = batch["numbers"].numpy()
    structures = len(numbers)
    counts = np.isfinite(true)
    real = numbers != 0 if per_atom else (numbers != 0).any(1)
    if (mask := batch["true"].get(f"{name}_mask")) is not None:
        allowed = mask.numpy().reshape(structures, -1)
        real = real & (allowed if per_atom else allowed[:, 0])
    counts &= real.reshape(real.shape + (1,) * (counts.ndim - real.ndim))
    fidelity = batch["fidelity"].numpy().reshape(-1, *[1] * (counts.ndim - 1))
    return (pred - true)[counts], np.broadcast_to(fidelity, counts.shape)[counts]


def oracle(batch: Batch, selection: Selection) -> dict[str, float]:
    found = {}
    for label in LABELS:
        error, fidelity = errors_of(batch, label.name, per_atom=label.per_atom)
        for prefix, chosen in [("", error), *((f"{n}/", error[fidelity == i]) for i, n in enumerate(FIDELITIES))]:
            if len(chosen):
                found[f"{prefix}{label.abbr}_rmse"] = float(np.sqrt(np.mean(chosen**2)))
                if "mae" in selection.kinds:
                    found[f"{prefix}{label.abbr}_mae"] = float(np.mean(np.abs(chosen)))
    return found


def add(sums: ErrorSums, batch: Batch, device: torch.device, layout: str = "contiguous") -> None:
    of_masks = "contiguous" if layout == "trailing axis" else layout
    pred, true = (
        {key: lay_out(x, of_masks if is_mask(key) else layout, device) for key, x in batch[part].items()}
        for part in ("pred", "true")
    )
    sums.update(pred, true, batch["numbers"].to(device), batch["fidelity"].to(device))


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "torch"])
@pytest.mark.parametrize("selection", [POOLED, VALIDATION], ids=["training", "validation"])
@pytest.mark.parametrize("mask", ["none", "B", "B1", "BN", "BN1"])
@pytest.mark.parametrize("layout", ["contiguous", "reversed axes", "every second", "trailing axis"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sums_agree_with_numpy(
    device: torch.device, dtype: torch.dtype, layout: str, mask: str, *, selection: Selection, kernel: bool
) -> None:
    sums = ErrorSums(LABELS, len(FIDELITIES), device, selection.quantities, kernel=kernel)
    assert sums.uses_kernel == kernel
    batch = make_batch(37, 11, dtype, mask)
    for _ in range(2):
        add(sums, batch, device, layout)
    slots = sums.snapshot().wait()
    for slot in Slot:
        found = statistics(slots[slot], sums.labels, FIDELITIES, selection)
        for name, value in oracle(batch, selection).items():
            assert found[name] == pytest.approx(value, rel=1e-9), (slot, name)


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "torch"])
@pytest.mark.parametrize("structures", [1, 64, 4096])
def test_repetitions_agree_to_the_last_digits(device: torch.device, structures: int, kernel: bool) -> None:
    """Without sums of values of both signs, whose relative errors have no limit."""
    batch = make_batch(structures, 20, torch.float32, "BN")
    found = []
    for _ in range(5):
        sums = ErrorSums(LABELS, len(FIDELITIES), device, POOLED.quantities, kernel=kernel)
        add(sums, batch, device)
        found.append(sums.snapshot().wait()[Slot.EPOCH].copy())
    scale = np.maximum(np.abs(found[0]), 1e-30)
    assert max(np.max(np.abs(other - found[0]) / scale) for other in found[1:]) <= SPREAD


def test_the_kernel_and_torch_find_the_same_finite_structures(device: torch.device) -> None:
    batch = make_batch(300, 9, torch.float32, "BN")
    batch["pred"]["forces"][::7] = torch.nan
    batch["pred"]["energy"][::11] = torch.inf
    found = [
        ErrorSums(LABELS, len(FIDELITIES), device, kernel=kernel).find_finite(
            *({key: x.to(device) for key, x in batch[part].items()} for part in ("pred", "true")),
            batch["numbers"].to(device),
        )
        for kernel in (True, False)
    ]
    assert torch.equal(*found)
    assert 0 < found[0].sum() < 300


def test_a_step_that_was_not_applied_is_only_counted(device: torch.device) -> None:
    batch = make_batch(20, 5, torch.float32, "none")
    pred, true = ({key: x.to(device) for key, x in batch[part].items()} for part in ("pred", "true"))
    arguments = (pred, true, batch["numbers"].to(device), batch["fidelity"].to(device))
    for kernel in (True, False):
        sums = ErrorSums(LABELS, len(FIDELITIES), device, POOLED.quantities, kernel=kernel)
        for flag in (True, False):
            sums.update(*arguments, applied=torch.tensor(flag, device=device))
        slots = sums.snapshot().wait()
        assert slots[Slot.EPOCH][-1] == 1
        np.testing.assert_allclose(slots[Slot.EPOCH][:-1], slots[Slot.BATCH][:-1], rtol=1e-12)
