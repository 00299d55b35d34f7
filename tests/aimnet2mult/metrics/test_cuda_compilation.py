"""The kernels of the error sums for CUDA can be compiled, which needs no GPU."""

from pathlib import Path

import pytest
import torch
import warp as wp

from aimnet2mult.metrics.error_sums import ErrorSums
from aimnet2mult.metrics.kernels import add_structures, finish
from support.labels import built_in

AMPERE = 80
"""A compute capability, 8.0, for which Warp's compiler writes PTX."""


@pytest.mark.parametrize("kernel", [add_structures, finish], ids=["add_structures", "finish"])
def test_a_kernel_compiles_for_cuda(kernel: wp.Kernel, tmp_path: Path) -> None:
    # Initializes Warp without messages.
    assert ErrorSums(built_in("energy"), 1).uses_kernel
    wp.compile_aot_module(kernel.module, arch=AMPERE, module_dir=tmp_path, use_ptx=True)
    (ptx,) = tmp_path.glob("*.ptx")
    assert f".visible .entry {kernel.key}_" in ptx.read_text(encoding="utf-8")


def test_other_devices_use_torch() -> None:
    assert not ErrorSums(built_in("energy"), 1, torch.device("meta")).uses_kernel
