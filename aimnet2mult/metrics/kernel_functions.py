"""The Warp functions of which the kernels of the error sums consist."""

# mypy: ignore-errors
# ruff: noqa: PLR0911, PLR0917, PLR2004, RUF046, UP018
# The types of Warp are built at run time, and a kernel is not Python.

import warp as wp

from aimnet2mult.metrics.kernel_types import Array, Found, Sizes, Values

__all__ = [
    "add_structure",
    "count_atoms",
    "fidelity_of",
    "finish_cell",
    "is_set",
    "store_finite",
    "sum_label",
]

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
def is_set(row: Array, b: int, n: int) -> bool:
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
def count_atoms(numbers: Array, b: int, atoms: int) -> int:
    """Return the number of real atoms, negative if there is padding before one of them."""
    count = int(0)
    end = int(0)
    for n in range(atoms):
        if is_set(numbers, b, n):
            count += 1
            end = n + 1
    return wp.where(count == end, count, -count)


@wp.func
def fidelity_of(fidelities: Array, b: int) -> wp.float64:
    """Return the fidelity of a structure."""
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
        if is_set(numbers, b, n) and is_set(mask, b, n):
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
def _of_one_atom(row: Array, components: int) -> Array:
    """Return the row of an array without an atom axis as that of one with a single atom."""
    return Array(row[0], row[1], row[2], wp.int64(components) * row[3], row[3])


@wp.func
def _sum_atoms(
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
    if mask[3] == wp.int64(0) and not is_set(mask, b, 0):
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
def sum_label(
    pred: Array,
    true: Array,
    mask: Array,
    numbers: Array,
    b: int,
    atoms: int,
    natom: int,
    components: int,
    per_atom: int,
    lane: int,
    lanes: int,
    more: bool,
) -> Values:
    """Return the sums of a label over every ``lanes``-th atom of structure ``b``, from atom ``lane`` on.

    ``natom`` is the number of atoms if these are the first ones, and otherwise negative. A label of the structure is
    one of a single atom.
    """
    if per_atom == 0:
        one_pred = _of_one_atom(pred, components)
        one_true = _of_one_atom(true, components)
        return _sum_atoms(one_pred, one_true, mask, Array(), b, 1, 1, components, lane, lanes, more)
    return _sum_atoms(pred, true, mask, numbers, b, atoms, natom, components, lane, lanes, more)


@wp.func
def add_structure(
    added: wp.array(dtype=wp.float64), sizes: Sizes, found: Found, fidelity: int, natom: int, in_loss: bool
):
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
def store_finite(finite: Array, sizes: Sizes, found: Found, b: int):
    """Store whether the sums of squares of a structure are finite."""
    is_finite = bool(True)
    for label in range(sizes.labels):
        is_finite = is_finite and wp.isfinite(found[label, 0])
    flags = wp.array(ptr=wp.uint64(finite[0] + wp.int64(b)), shape=(1,), dtype=wp.uint8)
    flags[0] = wp.uint8(is_finite)


# ---- the slots -------------------------------------------------------------------------------------


@wp.func
def finish_cell(
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
    if not is_set(applied, 0, 0):
        value = wp.float64(0.0)
        if cell == errors + 2 * sizes.terms:
            value = wp.float64(sizes.skipped)
    sums[1, cell] += value
    sums[2, cell] += value
