"""The arguments of the Warp kernels of the error sums."""

import warp as wp

from aimnet2mult.models.quiet_warp import init_warp

__all__ = [
    "APPLIED",
    "DTYPES",
    "FIDELITY",
    "FINITE",
    "FIRST_LABEL",
    "LABELED",
    "MAX_LABELS",
    "NUMBERS",
    "TERMS",
    "TOTAL",
    "Array",
    "Found",
    "Labels",
    "Sizes",
    "Table",
    "Values",
]

init_warp()

MAX_LABELS = 16
"""Largest number of labels: the table of a batch is passed by value, which CUDA limits to 4 KB."""
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
