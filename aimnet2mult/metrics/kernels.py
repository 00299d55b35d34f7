"""The Warp kernels of the error sums; `FusedUpdate` launches them.

On the CPU, `update_serially` does everything. On CUDA, a block of `add_structures` sums a structure with all its
threads, and `finish` adds the batch to the slots.
"""

# mypy: ignore-errors
# ruff: noqa: C901, PLR2004, UP018
# The types of Warp are built at run time, and a kernel is not Python.

import warp as wp

from aimnet2mult.metrics.kernel_functions import (
    add_structure,
    count_atoms,
    fidelity_of,
    finish_cell,
    is_set,
    store_finite,
    sum_label,
)
from aimnet2mult.metrics.kernel_types import (
    APPLIED,
    FIDELITY,
    FINITE,
    FIRST_LABEL,
    LABELED,
    NUMBERS,
    TERMS,
    TOTAL,
    Found,
    Labels,
    Sizes,
    Table,
    Values,
)

__all__ = ["BLOCKS", "LANES", "add_structures", "finish", "update_serially"]

BLOCKS, LANES = 1024, 32
"""Blocks on CUDA, each of which sums every 1024th structure, and their threads, each of which sums every 32nd atom."""


@wp.kernel(enable_backward=False, module="unique")
def update_serially(
    table: Table,
    labels: Labels,
    sizes: Sizes,
    sums: wp.array2d(dtype=wp.float64),
    added: wp.array(dtype=wp.float64),
):
    """Add a batch in one thread, so that the order of the additions is fixed.

    If a fidelity is out of range, the last cell of ``added`` becomes 1 and nothing is added; otherwise, ``added`` is 0
    before and after.
    """
    structures = int(table[0, 0])
    atoms = int(table[0, 1])
    numbers = table[NUMBERS]
    fidelities = table[FIDELITY]
    finite = table[FINITE]
    is_valid = bool(True)
    if finite[0] == wp.int64(0):
        for b in range(structures):
            index = fidelity_of(fidelities, b)
            is_valid = is_valid and index >= wp.float64(0.0) and index < wp.float64(sizes.fidelities)
    cells = sums.shape[1]
    added[cells] = wp.where(is_valid, wp.float64(0.0), wp.float64(1.0))
    if is_valid:
        for b in range(structures):
            natom = count_atoms(numbers, b, atoms)
            found = Found()
            for label in range(sizes.labels):
                true = table[FIRST_LABEL + 3 * label + 1]
                if true[0] != wp.int64(0) and natom != 0:
                    pred = table[FIRST_LABEL + 3 * label]
                    mask = table[FIRST_LABEL + 3 * label + 2]
                    more = sizes.quantities > 2
                    found[label] = sum_label(
                        pred, true, mask, numbers, b, atoms, natom, labels[label, 0], labels[label, 1], 0, 1, more
                    )
            if finite[0] == wp.int64(0):
                in_loss = is_set(table[LABELED], b, 0)
                add_structure(added, sizes, found, int(fidelity_of(fidelities, b)), wp.abs(natom), in_loss)
            else:
                store_finite(finite, sizes, found, b)
        if finite[0] == wp.int64(0):
            for cell in range(cells):
                finish_cell(table[TERMS], table[TOTAL], table[APPLIED], sizes, sums, added, cell)
            for cell in range(cells):
                added[cell] = wp.float64(0.0)


@wp.func
def _over_lanes(value: wp.float64) -> wp.float64:
    """Return the sum over the threads of a block, in a fixed order."""
    return wp.tile_sum(wp.tile(value))[0]


@wp.kernel(enable_backward=False, module="unique")
def add_structures(
    table: Table, labels: Labels, sizes: Sizes, sums: wp.array2d(dtype=wp.float64), added: wp.array(dtype=wp.float64)
):
    """Add the structures of a batch to ``added``, whose last cell counts fidelities out of range, on CUDA.

    The sums of a structure have a fixed order. Those over the structures are added atomically, so that their last
    digits depend on the order in which the blocks run.
    """
    block, lane = wp.tid()
    structures = int(table[0, 0])
    atoms = int(table[0, 1])
    numbers = table[NUMBERS]
    finite = table[FINITE]
    for b in range(block, structures, BLOCKS):
        natom = count_atoms(numbers, b, atoms)
        found = Found()
        for label in range(sizes.labels):
            true = table[FIRST_LABEL + 3 * label + 1]
            if true[0] != wp.int64(0) and natom != 0:
                pred = table[FIRST_LABEL + 3 * label]
                mask = table[FIRST_LABEL + 3 * label + 2]
                more = sizes.quantities > 2
                part = sum_label(
                    pred, true, mask, numbers, b, atoms, natom, labels[label, 0], labels[label, 1], lane, LANES, more
                )
                found[label] = Values(
                    _over_lanes(part[0]),
                    _over_lanes(part[1]),
                    _over_lanes(part[2]),
                    _over_lanes(part[3]),
                    _over_lanes(part[4]),
                )
        if lane == 0:
            if finite[0] != wp.int64(0):
                store_finite(finite, sizes, found, b)
            else:
                index = fidelity_of(table[FIDELITY], b)
                if index >= wp.float64(0.0) and index < wp.float64(sizes.fidelities):
                    add_structure(added, sizes, found, int(index), wp.abs(natom), is_set(table[LABELED], b, 0))
                else:
                    wp.atomic_add(added, sums.shape[1], wp.float64(1.0))


@wp.kernel(enable_backward=False, module="unique")
def finish(
    table: Table,
    labels: Labels,  # noqa: ARG001 - the kernels have the same arguments
    sizes: Sizes,
    sums: wp.array2d(dtype=wp.float64),
    added: wp.array(dtype=wp.float64),
):
    """Add ``added`` to the slots on CUDA; if a fidelity is out of range, everything becomes NaN."""
    cell = wp.tid()
    finish_cell(table[TERMS], table[TOTAL], table[APPLIED], sizes, sums, added, cell)
    if added[sums.shape[1]] > wp.float64(0.0):
        for slot in range(sums.shape[0]):
            sums[slot, cell] = wp.float64(wp.nan)
