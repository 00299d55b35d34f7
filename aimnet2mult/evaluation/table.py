"""The results of an evaluation as text."""

from collections.abc import Iterator, Mapping, Sequence

from aimnet2mult.data.places import counted
from aimnet2mult.evaluation.results import Result, WorstStructure
from aimnet2mult.quantities import Label

__all__ = ["describe"]

COLUMNS = ("rmse", "mae", "r2", "max")
HEADINGS = {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "max": "max"}
GAP = "  "
MAX_NAMED = 10
"""Maximum number of structures without finite predictions that are named."""


def describe(result: Result, labels: Sequence[Label]) -> Iterator[str]:
    """Yield the lines of a report: a table for each label, and the structures with the largest errors.

    Args:
        result: The results.
        labels: The labels, in the order of the tables.
    """
    what = f"{result.part} data" if result.part else ", ".join(result.data)
    best = f", best val/{result.best.metric}, iteration {result.best.iteration}" if result.best else ""
    yield f"{result.model} ({result.weights}{best}) on {what}: {counted(result.structures, 'structure')}"
    if result.left_out:
        yield f"left out: {counted(result.left_out, 'structure')}"
    if "loss" in result.metrics:
        yield f"loss {result.metrics['loss']:.4g}"
    for label in labels:
        if f"{label.abbr}_rmse" in result.metrics:
            yield ""
            yield from _table(result, label)
            yield from _worst(result.worst.get(label.abbr, ()), label, result.units[f"{label.abbr}_rmse"])
    if result.not_finite:
        yield ""
        named = [*result.not_finite[:MAX_NAMED]]
        more = len(result.not_finite) - MAX_NAMED
        named += [f"and {more:,} more"] if more > 0 else []
        count = counted(len(result.not_finite), "structure")
        yield f"warning: no finite prediction for {count}, left out of all errors: {'; '.join(named)}"


def _table(result: Result, label: Label) -> Iterator[str]:
    columns = [f"{label.abbr}_{kind}" for kind in COLUMNS]
    headings = [HEADINGS[kind] for kind in COLUMNS]
    atom = [f"{label.abbr}_atom_{kind}" for kind in COLUMNS]
    for name, kind in zip(atom, COLUMNS, strict=True):
        if name in result.metrics:
            columns.append(name)
            headings.append(f"{HEADINGS[kind]}/atom")
    rows: list[tuple[str, Mapping[str, float]]] = [("all", result.metrics)]
    for grouping, groups in result.by.items():
        rows += [(f"{grouping} {name}", values) for name, values in groups.items() if columns[0] in values]
    cells = [["structures", *headings]]
    count = f"{label.abbr}_structures"
    cells += [[f"{values.get(count, 0):,}", *(_number(values.get(name)) for name in columns)] for _, values in rows]
    names = [f"{label.text} [{result.units[columns[0]]}]", *(f"  {name}" for name, _ in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    width = max(map(len, names))
    for name, row in zip(names, cells, strict=True):
        yield GAP.join([name.ljust(width), *(cell.rjust(size) for cell, size in zip(row, widths, strict=True))])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:#.4g}".rstrip(".")


def _worst(structures: Sequence[WorstStructure], label: Label, unit: str) -> Iterator[str]:
    if structures:
        yield f"  largest errors of {label.text} [{unit}]:"
    for structure in structures:
        frame = "" if structure.frame is None else f" (frame {structure.frame})"
        yield f"  {structure.error:10.4g}  {structure.file}, group {structure.group}, row {structure.row}{frame}"
