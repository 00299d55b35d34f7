"""The Warp kernel of the error sums; `FusedUpdate` launches it."""

# mypy: disable-error-code="valid-type, misc, no-untyped-call, no-untyped-def, index, operator, no-any-return"
# The types of Warp are built at run time, and the body of a kernel is not Python.

import ctypes
from enum import IntEnum

import warp as wp

from aimnet2mult.models.quiet_warp import init_warp

__all__ = ["DTYPES", "MAX_LABELS", "Labels", "Row", "Sizes", "Table", "update_serially"]

init_warp()

MAX_LABELS = 16
"""Largest number of labels: the table of a batch is passed by value, which CUDA limits to 4 KB."""

DTYPES = ("float32", "float64", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Names of the readable element types; the index is the code."""


class Row(IntEnum):
    """The first rows of a `Table`; prediction, label and mask of each label follow."""

    SIZES = 0
    """Number of structures and of atoms, instead of an array."""
    NUMBERS = 1
    FIDELITY = 2
    TERMS = 3
    """Sums and counts of the loss components."""
    TOTAL = 4
    """The loss, where the sums and counts are unknown."""
    LABELED = 5
    """Which structures it covers."""
    APPLIED = 6
    FINITE = 7
    """Output: which structures are finite. Nothing is summed then."""
    LABELS = 8


Table = wp.types.matrix(shape=(Row.LABELS + 3 * MAX_LABELS, 5), dtype=wp.int64)
"""The arrays of a batch: in each row the address, the code of the type, and the strides of the axes in elements.

The address of an absent array is 0.
"""
Labels = wp.types.matrix(shape=(MAX_LABELS, 2), dtype=wp.int32)
"""The number of components of each label, and 1 if it is per atom."""
Array = wp.types.vector(length=5, dtype=wp.int64)
"""A row of a table."""
Values = wp.types.vector(length=5, dtype=wp.float64)
"""Sums of a label: the `QUANTITIES` without the last."""
Found = wp.types.matrix(shape=(MAX_LABELS, 5), dtype=wp.float64)
"""The `Values` of each label in a structure."""


@wp.struct
class Sizes:
    """The layout of a slot; see `Layout`."""

    labels: int
    fidelities: int
    stride: int
    width: int
    """Number of quantities: 2 or 6."""
    energy: int
    """Index of the energy among the labels, or -1."""
    terms: int
    skipped: int
    """What a step that is not applied adds to the count of skipped steps."""


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
    if row[1] == wp.int64(4):
        return wp.array(ptr=wp.uint64(row[0] + wp.int64(8) * index), shape=(1,), dtype=wp.int64)[0] != wp.int64(0)
    if row[1] == wp.int64(9):
        return wp.array(ptr=wp.uint64(row[0] + index), shape=(1,), dtype=wp.uint8)[0] != wp.uint8(0)
    return _read(row[0], row[1], wp.int64(b) * row[2] + wp.int64(n) * row[3]) != wp.float64(0.0)


@wp.func
def _sum_label(pred: Array, true: Array, mask: Array, numbers: Array, b: int, atoms: int, components: int) -> Values:
    """Return the sums of a label over the components that count in structure ``b``."""
    square = wp.float64(0.0)
    count = wp.float64(0.0)
    absolute = wp.float64(0.0)
    value = wp.float64(0.0)
    value_square = wp.float64(0.0)
    is_float32 = pred[1] == wp.int64(0) and true[1] == wp.int64(0)
    per_atom = mask[3] != wp.int64(0)
    steps = atoms
    if not per_atom and not _is_set(mask, b, 0):
        steps = 0
    for n in range(steps):
        if _is_set(numbers, b, n) and (not per_atom or _is_set(mask, b, n)):
            first = wp.int64(b) * true[2] + wp.int64(n) * true[3]
            first_pred = wp.int64(b) * pred[2] + wp.int64(n) * pred[3]
            for component in range(components):
                index = first + wp.int64(component) * true[4]
                index_pred = first_pred + wp.int64(component) * pred[4]
                t = wp.float64(0.0)
                p = wp.float64(0.0)
                if is_float32:
                    t = _float32(true[0], index)
                    p = _float32(pred[0], index_pred)
                else:
                    t = _read(true[0], true[1], index)
                    p = _read(pred[0], pred[1], index_pred)
                if wp.abs(t) < wp.float64(wp.inf):
                    error = p - t
                    square += error * error
                    count += wp.float64(1.0)
                    absolute += wp.abs(error)
                    value += t
                    value_square += t * t
    return Values(square, count, absolute, value, value_square)


@wp.func
def _count_atoms(numbers: Array, b: int, atoms: int) -> int:
    count = int(0)
    for n in range(atoms):
        if _is_set(numbers, b, n):
            count += 1
    return count


@wp.func
def _add(added: wp.array(dtype=wp.float64), sizes: Sizes, found: Found, fidelity: int, natom: int, is_kept: bool):
    """Add the sums of a structure to the cells of its fidelity, or count it as skipped."""
    first = fidelity * sizes.stride
    for label in range(sizes.labels):
        cell = first + label * sizes.width
        if is_kept:
            wp.atomic_add(added, cell, found[label, 0])
            wp.atomic_add(added, cell + 1, found[label, 1])
            for quantity in range(2, sizes.width - 1):
                wp.atomic_add(added, cell + quantity, found[label, quantity])
        else:
            wp.atomic_add(added, cell + sizes.width - 1, found[label, 1])
    if is_kept and sizes.energy >= 0:
        square = found[sizes.energy, 0] / wp.float64(wp.max(natom, 1) * wp.max(natom, 1))
        wp.atomic_add(added, first + sizes.stride - 1, square)


@wp.func
def _loss_cell(terms: Array, total: Array, structures: wp.float64, sizes: Sizes, index: int) -> wp.float64:
    """Return a cell of the loss: the sums of all terms, then their counts; the last term is the whole loss."""
    term = index % sizes.terms
    row = index // sizes.terms
    if term < sizes.terms - 1:
        if terms[0] == wp.int64(0):
            return wp.float64(0.0)
        return _read(terms[0], terms[1], wp.int64(row) * terms[2] + wp.int64(term) * terms[3])
    if total[0] == wp.int64(0):
        return wp.float64(0.0)
    if row == 1:
        return structures
    return structures * _read(total[0], total[1], wp.int64(0))


@wp.kernel(enable_backward=False, module="unique")
def update_serially(
    table: Table, labels: Labels, sizes: Sizes, sums: wp.array2d(dtype=wp.float64), status: wp.array(dtype=wp.int32)
):
    """Add a batch in a single thread, so that the order of the additions is fixed.

    If a fidelity is out of range, the sums of the batch are 0, nothing is added, and the status is 1.
    """
    structures = int(table[0, 0])
    atoms = int(table[0, 1])
    numbers = table[1]
    fidelities = table[2]
    labeled = table[5]
    finite = table[7]
    batch = sums[0]
    cells = batch.shape[0]
    errors = sizes.fidelities * sizes.stride
    skips = sizes.width > 2
    in_loss = wp.float64(0.0)
    skipped = wp.float64(0.0)

    status[0] = 0
    if finite[0] == wp.int64(0):
        for cell in range(cells):
            batch[cell] = wp.float64(0.0)
        for b in range(structures):
            fidelity = _read(fidelities[0], fidelities[1], wp.int64(b) * fidelities[2])
            if fidelity < wp.float64(0.0) or fidelity >= wp.float64(sizes.fidelities):
                status[0] = 1
    if status[0] == 0:
        for b in range(structures):
            natom = _count_atoms(numbers, b, atoms)
            found = Found()
            is_finite = bool(True)
            for label in range(sizes.labels):
                true = table[8 + 3 * label + 1]
                if true[0] != wp.int64(0):
                    pred = table[8 + 3 * label]
                    real = numbers
                    steps = atoms
                    if labels[label, 1] == 0:
                        real = Array()
                        steps = wp.min(natom, 1)
                        true[4] = true[3]
                        pred[4] = pred[3]
                    values = _sum_label(pred, true, table[8 + 3 * label + 2], real, b, steps, labels[label, 0])
                    found[label] = values
                    is_finite = is_finite and wp.isfinite(values[0])
            if finite[0] != wp.int64(0):
                flags = wp.array(ptr=wp.uint64(finite[0]), shape=(structures,), dtype=wp.uint8)
                flags[b] = wp.uint8(is_finite)
            else:
                is_kept = is_finite or not skips
                index = int(_read(fidelities[0], fidelities[1], wp.int64(b) * fidelities[2]))
                _add(batch, sizes, found, index, natom, is_kept)
                if not is_kept:
                    skipped += wp.float64(1.0)
                elif _is_set(labeled, b, 0):
                    in_loss += wp.float64(1.0)
        if finite[0] == wp.int64(0):
            for term in range(2 * sizes.terms):
                batch[errors + term] = _loss_cell(table[3], table[4], in_loss, sizes, term)
            batch[cells - 1] = skipped
            if _is_set(table[6], 0, 0):
                for cell in range(cells):
                    sums[1, cell] += batch[cell]
                    sums[2, cell] += batch[cell]
            else:
                sums[1, cells - 1] += wp.float64(sizes.skipped)
                sums[2, cells - 1] += wp.float64(sizes.skipped)


def record(sums, layout, skipped_steps, status):
    labels = Labels()
    for index, label in enumerate(layout.labels):
        labels[index] = (label.components, int(label.per_atom))
    sizes = Sizes()
    sizes.labels = len(layout.labels)
    sizes.fidelities = layout.fidelities
    sizes.stride = layout.stride
    sizes.width = len(layout.quantities)
    sizes.energy = layout.names.index("energy") if layout.has_energy else -1
    sizes.terms = layout.terms
    sizes.skipped = skipped_steps
    flag = wp.array(ptr=ctypes.addressof(status), shape=(1,), dtype=wp.int32, device="cpu")
    inputs = [Table(), labels, sizes, wp.from_torch(sums), flag]
    launch = wp.launch(update_serially, dim=1, inputs=inputs, device="cpu", record_cmd=True)
    return launch, launch.params[1]
