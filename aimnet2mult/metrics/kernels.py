"""The Warp kernels of the error sums; `FusedUpdate` launches them.

On the CPU, `update_serially` does everything. On CUDA, a block of `add_structures` sums a structure with all its
threads, and `finish` adds the batch to the other slots.
"""

# mypy: disable-error-code="valid-type, misc, no-untyped-call, no-untyped-def, index, operator, no-any-return"
# ruff: noqa: C901, PLR0911, PLR0912, PLR0913, PLR0917, PLR2004, RUF046, UP018
# The types of Warp are built at run time, and a kernel is not Python.

import ctypes

import warp as wp

from aimnet2mult.models.quiet_warp import init_warp

__all__ = [
    *("APPLIED", "DTYPES", "FIDELITY", "FINITE", "FIRST_LABEL", "LABELED", "MAX_LABELS", "NUMBERS", "TERMS", "TOTAL"),
    *("BLOCKS", "LANES", "Labels", "Sizes", "Table", "add_structures", "finish", "update_serially"),
]

init_warp()

MAX_LABELS = 16
"""Largest number of labels: the table of a batch is passed by value, which CUDA limits to 4 KB."""
BLOCKS, LANES = 1024, 32
"""Blocks on CUDA, each of which sums every 1024th structure, and their threads, each of which sums every 32nd atom."""
DTYPES = ("float32", "float64", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Names of the types that can be read; the index is the code."""

NUMBERS, FIDELITY, TERMS, TOTAL, LABELED, APPLIED, FINITE, FIRST_LABEL = range(1, 9)
"""Rows of a `Table`. TERMS: sums and counts of the loss components. TOTAL: the loss, if these are unknown. LABELED:
which structures the loss covers. FINITE: output, which structures are finite; then, nothing is added.
"""
Table = wp.types.matrix(shape=(FIRST_LABEL + 3 * MAX_LABELS, 5), dtype=wp.int64)
"""The arrays of a batch, in each row: the address, the code of the type, and the strides of the axes in elements.

An absent array has the address 0. Row 0 holds the numbers of structures and atoms instead. From FIRST_LABEL on, there
are prediction, label and mask of each label.
"""
Labels = wp.types.matrix(shape=(MAX_LABELS, 2), dtype=wp.int32)
"""The number of components of each label, and 1 if it is per atom."""
Array = wp.types.vector(length=5, dtype=wp.int64)
"""A row of a `Table`."""
Values = wp.types.vector(length=5, dtype=wp.float64)
"""The sums of a label in a structure: `QUANTITIES` without the last."""
Found = wp.types.matrix(shape=(MAX_LABELS, 5), dtype=wp.float64)
"""The `Values` of each label in a structure."""


@wp.struct
class Sizes:
    """The `Layout` of a slot."""

    labels: int
    fidelities: int
    stride: int
    quantities: int
    terms: int
    energy: int
    """Index of the energy among the labels, or -1."""
    skipped: int
    """What a step that is not applied adds to the number of skipped steps."""


# ---- reading ---------------------------------------------------------------------------------------


@wp.func
def _float32(address: wp.int64, index: wp.int64) -> wp.float64:
    return wp.float64(wp.array(ptr=wp.uint64(address + wp.int64(4) * index), shape=(1,), dtype=wp.float32)[0])


@wp.func
def _read(address: wp.int64, code: wp.int64, index: wp.int64) -> wp.float64:
    """Return an element of an array as float64."""
    one = wp.uint64(address + index)
    two = wp.uint64(address + wp.int64(2) * index)
    four = wp.uint64(address + wp.int64(4) * index)
    eight = wp.uint64(address + wp.int64(8) * index)
    if code == wp.int64(0):
        return wp.float64(wp.array(ptr=four, shape=(1,), dtype=wp.float32)[0])
    if code == wp.int64(1):
        return wp.array(ptr=eight, shape=(1,), dtype=wp.float64)[0]
    if code == wp.int64(2):
        # The upper half of a float32.
        bits = wp.uint32(wp.array(ptr=two, shape=(1,), dtype=wp.uint16)[0]) << wp.uint32(16)
        return wp.float64(wp.cast(bits, wp.float32))
    if code == wp.int64(3):
        return wp.float64(wp.array(ptr=two, shape=(1,), dtype=wp.float16)[0])
    if code == wp.int64(4):
        return wp.float64(wp.array(ptr=eight, shape=(1,), dtype=wp.int64)[0])
    if code == wp.int64(5):
        return wp.float64(wp.array(ptr=four, shape=(1,), dtype=wp.int32)[0])
    if code == wp.int64(6):
        return wp.float64(wp.array(ptr=two, shape=(1,), dtype=wp.int16)[0])
    if code == wp.int64(7):
        return wp.float64(wp.array(ptr=one, shape=(1,), dtype=wp.int8)[0])
    return wp.float64(wp.array(ptr=one, shape=(1,), dtype=wp.uint8)[0])


@wp.func
def _is_set(row: Array, b: int, n: int) -> bool:
    """Return whether an element of an array is not 0; an absent array has no zeros."""
    if row[0] == wp.int64(0):
        return True
    index = wp.int64(b) * row[2] + wp.int64(n) * row[3]
    # The usual types first, because of the time.
    if row[1] == wp.int64(4):
        return wp.array(ptr=wp.uint64(row[0] + wp.int64(8) * index), shape=(1,), dtype=wp.int64)[0] != wp.int64(0)
    if row[1] == wp.int64(9):
        return wp.array(ptr=wp.uint64(row[0] + index), shape=(1,), dtype=wp.uint8)[0] != wp.uint8(0)
    return _read(row[0], row[1], index) != wp.float64(0.0)


@wp.func
def _count_atoms(numbers: Array, b: int, atoms: int) -> int:
    """Return the number of real atoms, negative if there is padding before one of them."""
    count = int(0)
    end = int(0)
    for n in range(atoms):
        if _is_set(numbers, b, n):
            count += 1
            end = n + 1
    return wp.where(count == end, count, -count)


@wp.func
def _fidelity(fidelities: Array, b: int) -> wp.float64:
    return _read(fidelities[0], fidelities[1], wp.int64(b) * fidelities[2])


# ---- the sums of a structure -----------------------------------------------------------------------


@wp.func
def _sum_run(
    pred: wp.int64, pred_step: wp.int64, true: wp.int64, true_step: wp.int64, begin: int, end: int, by: int, more: bool
) -> Values:
    """Return the sums over elements of float32 arrays that count if the label is finite."""
    square = wp.float64(0.0)
    count = wp.float64(0.0)
    absolute = wp.float64(0.0)
    value = wp.float64(0.0)
    value_square = wp.float64(0.0)
    for i in range(begin, end, by):
        t = _float32(true, wp.int64(i) * true_step)
        counts = wp.abs(t) < wp.float64(wp.inf)
        error = wp.where(counts, _float32(pred, wp.int64(i) * pred_step) - t, wp.float64(0.0))
        square += error * error
        count += wp.where(counts, wp.float64(1.0), wp.float64(0.0))
        if more:
            t = wp.where(counts, t, wp.float64(0.0))
            absolute += wp.abs(error)
            value += t
            value_square += t * t
    return Values(square, count, absolute, value, value_square)


@wp.func
def _sum_any(
    pred: Array, true: Array, mask: Array, numbers: Array, b: int, begin: int, end: int, by: int, components: int
) -> Values:
    """Return the sums over the components that count, for arrays of all types and atoms in any order."""
    square = wp.float64(0.0)
    count = wp.float64(0.0)
    absolute = wp.float64(0.0)
    value = wp.float64(0.0)
    value_square = wp.float64(0.0)
    for n in range(begin, end, by):
        if _is_set(numbers, b, n) and _is_set(mask, b, n):
            first_pred = wp.int64(b) * pred[2] + wp.int64(n) * pred[3]
            first = wp.int64(b) * true[2] + wp.int64(n) * true[3]
            for component in range(components):
                t = _read(true[0], true[1], first + wp.int64(component) * true[4])
                if wp.abs(t) < wp.float64(wp.inf):
                    error = _read(pred[0], pred[1], first_pred + wp.int64(component) * pred[4]) - t
                    square += error * error
                    count += wp.float64(1.0)
                    absolute += wp.abs(error)
                    value += t
                    value_square += t * t
    return Values(square, count, absolute, value, value_square)


@wp.func
def _sum_label(
    pred: Array,
    true: Array,
    mask: Array,
    numbers: Array,
    b: int,
    atoms: int,
    natom: int,
    components: int,
    lane: int,
    lanes: int,
    more: bool,
) -> Values:
    """Return the sums of a label over every ``lanes``-th atom of structure ``b``, from atom ``lane`` on.

    ``natom`` is the number of atoms if these are the first ones, and otherwise negative.
    """
    if mask[3] == wp.int64(0) and not _is_set(mask, b, 0):
        return Values()
    if pred[1] != wp.int64(0) or true[1] != wp.int64(0) or mask[3] != wp.int64(0) or natom < 0:
        return _sum_any(pred, true, mask, numbers, b, lane, atoms, lanes, components)
    p = pred[0] + wp.int64(4) * wp.int64(b) * pred[2]
    t = true[0] + wp.int64(4) * wp.int64(b) * true[2]
    run = wp.int64(components)
    if pred[3] == run * pred[4] and true[3] == run * true[4]:
        return _sum_run(p, pred[4], t, true[4], lane, natom * components, lanes, more)
    total = Values()
    for component in range(components):
        c = wp.int64(4) * wp.int64(component)
        total += _sum_run(p + c * pred[4], pred[3], t + c * true[4], true[3], lane, natom, lanes, more)
    return total


@wp.func
def _add(added: wp.array(dtype=wp.float64), sizes: Sizes, found: Found, fidelity: int, natom: int, in_loss: bool):
    """Add the sums of a structure to the cells of its fidelity, or count it as skipped."""
    is_kept = bool(True)
    if sizes.quantities > 2:
        for label in range(sizes.labels):
            is_kept = is_kept and wp.isfinite(found[label, 0])
    first = fidelity * sizes.stride
    skipped = sizes.quantities - 1
    for label in range(sizes.labels):
        cell = first + label * sizes.quantities
        if is_kept:
            wp.atomic_add(added, cell, found[label, 0])
            wp.atomic_add(added, cell + 1, found[label, 1])
            for quantity in range(2, skipped):
                wp.atomic_add(added, cell + quantity, found[label, quantity])
        else:
            wp.atomic_add(added, cell + skipped, found[label, 1])
    end = sizes.fidelities * sizes.stride + 2 * sizes.terms
    if is_kept:
        if sizes.energy >= 0:
            atoms = wp.float64(wp.max(natom, 1))
            wp.atomic_add(added, first + sizes.stride - 1, found[sizes.energy, 0] / (atoms * atoms))
        if in_loss:
            wp.atomic_add(added, end - 1, wp.float64(1.0))
    else:
        wp.atomic_add(added, end, wp.float64(1.0))


@wp.func
def _store_finite(finite: Array, sizes: Sizes, found: Found, b: int):
    is_finite = bool(True)
    for label in range(sizes.labels):
        is_finite = is_finite and wp.isfinite(found[label, 0])
    flags = wp.array(ptr=wp.uint64(finite[0] + wp.int64(b)), shape=(1,), dtype=wp.uint8)
    flags[0] = wp.uint8(is_finite)


@wp.func
def _of_structure(row: Array, components: int) -> Array:
    """Return the row of an array without an atom axis as that of one with a single atom."""
    return Array(row[0], row[1], row[2], wp.int64(components) * row[3], row[3])


@wp.func
def _over_lanes(value: wp.float64) -> wp.float64:
    """Return the sum over the threads of a block, in a fixed order."""
    return wp.tile_sum(wp.tile(value))[0]


# ---- the slots -------------------------------------------------------------------------------------


@wp.func
def _finish_cell(
    terms: Array,
    total: Array,
    applied: Array,
    sizes: Sizes,
    sums: wp.array2d(dtype=wp.float64),
    added: wp.array(dtype=wp.float64),
    cell: int,
):
    """Move a cell of ``added``, or the loss, to the slots."""
    errors = sizes.fidelities * sizes.stride
    whole = errors + sizes.terms - 1
    value = added[cell]
    if cell >= errors and cell < errors + 2 * sizes.terms:
        row = (cell - errors) // sizes.terms
        term = (cell - errors) % sizes.terms
        if term == sizes.terms - 1:
            value = wp.float64(0.0)
            if total[0] != wp.int64(0):
                value = added[whole + sizes.terms]
                if row == 0:
                    value *= _read(total[0], total[1], wp.int64(0))
        elif terms[0] != wp.int64(0):
            value = _read(terms[0], terms[1], wp.int64(row) * terms[2] + wp.int64(term) * terms[3])
    sums[0, cell] = value
    if not _is_set(applied, 0, 0):
        value = wp.float64(0.0)
        if cell == errors + 2 * sizes.terms:
            value = wp.float64(sizes.skipped)
    sums[1, cell] += value
    sums[2, cell] += value


# ---- kernels ---------------------------------------------------------------------------------------


@wp.kernel(enable_backward=False, module="unique")
def update_serially(
    table: Table,
    labels: Labels,
    sizes: Sizes,
    sums: wp.array2d(dtype=wp.float64),
    added: wp.array(dtype=wp.float64),
    status: wp.array(dtype=wp.int32),
):
    """Add a batch in one thread, so that the order of the additions is fixed.

    If a fidelity is out of range, the status becomes 1 and nothing is added. ``added`` is 0 before and after.
    """
    structures = int(table[0, 0])
    atoms = int(table[0, 1])
    numbers = table[NUMBERS]
    fidelities = table[FIDELITY]
    finite = table[FINITE]
    is_valid = bool(True)
    if finite[0] == wp.int64(0):
        for b in range(structures):
            index = _fidelity(fidelities, b)
            is_valid = is_valid and index >= wp.float64(0.0) and index < wp.float64(sizes.fidelities)
    status[0] = wp.where(is_valid, 0, 1)
    if is_valid:
        for b in range(structures):
            natom = _count_atoms(numbers, b, atoms)
            found = Found()
            for label in range(sizes.labels):
                true = table[FIRST_LABEL + 3 * label + 1]
                if true[0] != wp.int64(0) and natom != 0:
                    pred = table[FIRST_LABEL + 3 * label]
                    mask = table[FIRST_LABEL + 3 * label + 2]
                    components = labels[label, 0]
                    more = sizes.quantities > 2
                    if labels[label, 1] != 0:
                        found[label] = _sum_label(
                            pred, true, mask, numbers, b, atoms, natom, components, 0, 1, more
                        )
                    else:
                        pred = _of_structure(pred, components)
                        true = _of_structure(true, components)
                        found[label] = _sum_label(pred, true, mask, Array(), b, 1, 1, components, 0, 1, more)
            if finite[0] == wp.int64(0):
                in_loss = _is_set(table[LABELED], b, 0)
                _add(added, sizes, found, int(_fidelity(fidelities, b)), wp.abs(natom), in_loss)
            else:
                _store_finite(finite, sizes, found, b)
        if finite[0] == wp.int64(0):
            for cell in range(added.shape[0]):
                _finish_cell(table[TERMS], table[TOTAL], table[APPLIED], sizes, sums, added, cell)
            for cell in range(added.shape[0]):
                added[cell] = wp.float64(0.0)


@wp.kernel(enable_backward=False, module="unique")
def add_structures(table: Table, labels: Labels, sizes: Sizes, added: wp.array(dtype=wp.float64)):
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
        natom = _count_atoms(numbers, b, atoms)
        found = Found()
        for label in range(sizes.labels):
            true = table[FIRST_LABEL + 3 * label + 1]
            if true[0] != wp.int64(0) and natom != 0:
                pred = table[FIRST_LABEL + 3 * label]
                mask = table[FIRST_LABEL + 3 * label + 2]
                components = labels[label, 0]
                more = sizes.quantities > 2
                part = Values()
                if labels[label, 1] != 0:
                    part = _sum_label(pred, true, mask, numbers, b, atoms, natom, components, lane, LANES, more)
                else:
                    pred = _of_structure(pred, components)
                    true = _of_structure(true, components)
                    part = _sum_label(pred, true, mask, Array(), b, 1, 1, components, lane, LANES, more)
                found[label] = Values(
                    _over_lanes(part[0]), _over_lanes(part[1]), _over_lanes(part[2]), _over_lanes(part[3]), _over_lanes(part[4])
                )
        if lane == 0:
            if finite[0] != wp.int64(0):
                _store_finite(finite, sizes, found, b)
            else:
                index = _fidelity(table[FIDELITY], b)
                if index >= wp.float64(0.0) and index < wp.float64(sizes.fidelities):
                    _add(added, sizes, found, int(index), wp.abs(natom), _is_set(table[LABELED], b, 0))
                else:
                    wp.atomic_add(added, added.shape[0] - 1, wp.float64(1.0))


@wp.kernel(enable_backward=False, module="unique")
def finish(table: Table, sizes: Sizes, sums: wp.array2d(dtype=wp.float64), added: wp.array(dtype=wp.float64)):
    """Add ``added`` to the slots on CUDA; if a fidelity is out of range, everything becomes NaN."""
    cell = wp.tid()
    _finish_cell(table[TERMS], table[TOTAL], table[APPLIED], sizes, sums, added, cell)
    if added[added.shape[0] - 1] > wp.float64(0.0):
        for slot in range(sums.shape[0]):
            sums[slot, cell] = wp.float64(wp.nan)


def record(sums, layout, skipped_steps, status):
    labels = Labels()
    for index, label in enumerate(layout.labels):
        labels[index] = (label.components, int(label.per_atom))
    sizes = Sizes()
    sizes.labels = len(layout.labels)
    sizes.fidelities = layout.fidelities
    sizes.stride = layout.stride
    sizes.quantities = len(layout.quantities)
    sizes.energy = layout.names.index("energy") if layout.has_energy else -1
    sizes.terms = layout.terms
    sizes.skipped = skipped_steps
    flag = wp.array(ptr=ctypes.addressof(status), shape=(1,), dtype=wp.int32, device="cpu")
    inputs = [Table(), labels, sizes, wp.from_torch(sums), wp.zeros(layout.cells, dtype=wp.float64, device="cpu"), flag]
    launch = wp.launch(update_serially, dim=1, inputs=inputs, device="cpu", record_cmd=True)
    return launch, launch.params[1]
