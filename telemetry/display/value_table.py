"""A table of the latest and best values of curves, which is also the legend of their charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from telemetry.display.plot_layout import Plot, Series
from telemetry.display.styles import Style
from telemetry.display.text_width import cut, cut_middle, pad, width_of
from telemetry.metrics import VALIDATION
from telemetry.reading.best_value import best_of_curve
from telemetry.reading.curve import Curve
from telemetry.units import NO_UNIT

MIN_NAME_WIDTH = 24
"""Columns that are available for the name of a row and its mark at least."""
GAP = 2
"""Columns between columns of the table."""
MAX_CELL_WIDTH = 24
"""Maximum width of a cell; only names and units may be wider."""
LINE = "─"
"""Mark of a curve in color."""


def table(plots: Sequence[Plot], styles: Mapping[str, Style], width: int, *, colors: bool) -> list[str]:
    """Return lines of up to ``width`` columns: a row for each curve, with a column for each plot.

    If there are too many plots for one line, several tables follow each other. The best values are those of the
    validation if there is one. Lines about points that cannot be drawn come last.

    Args:
        plots: the plots.
        styles: the style of each curve, by label.
        width: the available columns.
        colors: whether lines may contain SGR sequences.
    """
    labels = [label for label in styles if any(each.label == label for plot in plots for each in plot.series)]
    rows = [row for label in labels for row in _rows(label, plots)]
    columns = [_fitted([*_heading(plot), *(row.cell(plot) for row in rows)], width - MIN_NAME_WIDTH) for plot in plots]
    # A long name takes the space that the columns leave, or a third of the width.
    room = max(width // 3, MIN_NAME_WIDTH, width - sum(width_of(column[0]) for column in columns)) - len("─ ")
    name_width = min(room, max(width_of(row.name + row.suffix) for row in rows))
    names = ["", "", *(row.cut_name(name_width) for row in rows)]
    marked = [None, None, *(styles[row.name] if row.is_marked else None for row in rows)]
    lines: list[str] = []
    for part in _parts(columns, width - name_width - len("─ ")):
        for name, style, cells in zip(names, marked, zip(*part, strict=True), strict=True):
            if line := (pad(name, name_width) + "".join(cells)).rstrip():
                lines.append(_marked(line, style, colors=colors))
    return [*lines, *(cut(line, width) for line in _non_finite_lines(plots))]


def _marked(text: str, style: Style | None, *, colors: bool) -> str:
    if style is None:
        return f"  {text}".rstrip()
    if colors:
        return f"\x1b[{style.sgr}m{LINE} {text}\x1b[0m"
    return f"{style.mark} {text}"


def _heading(plot: Plot) -> tuple[str, str]:
    curve = plot.series[0].curve
    return curve.name.rpartition("/")[2], "" if curve.unit in NO_UNIT else curve.unit


class _Row(NamedTuple):
    """A row: its name, of which only the part before the suffix may be cut, and the text in the column of a plot."""

    name: str
    suffix: str
    is_marked: bool
    cell: Callable[[Plot], str]

    def cut_name(self, width: int) -> str:
        return cut(cut_middle(self.name, max(8, width - len(self.suffix))) + self.suffix, width)


def _rows(label: str, plots: Sequence[Plot]) -> Iterator[_Row]:
    """Yield the rows of a curve: latest values, and best ones unless there is a validation and this is not it."""
    series = [each for plot in plots for each in plot.series if each.label == label]
    # The last point, whose value is shown: steps may decrease.
    last = max(int(each.curve.steps[-1]) for each in series)
    yield _Row(label, f" at {last}", True, lambda plot: _text(plot, label, lambda curve: _number(curve.values[-1])))
    validates = any(each.stream == VALIDATION for plot in plots for each in plot.series)
    if validates and series[0].stream != VALIDATION:
        return
    if any(best_of_curve(each.curve) is not None for each in series):
        directions = {each.curve.better for each in series if each.curve.better}
        word = {"lower": "lowest", "higher": "highest"}[directions.pop()] if len(directions) == 1 else "best"
        yield _Row(f"  {word}", "", False, lambda plot: _text(plot, label, _best_value))
        yield _Row("  at iteration", "", False, lambda plot: _text(plot, label, _best_step))


def _text(plot: Plot, label: str, text: Callable[[Curve], str]) -> str:
    found = [each for each in plot.series if each.label == label]
    return text(found[0].curve) if found else ""


def _best_value(curve: Curve) -> str:
    return "" if (best := best_of_curve(curve)) is None else _number(best.value)


def _best_step(curve: Curve) -> str:
    return "" if (best := best_of_curve(curve)) is None else str(best.step)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _fitted(cells: Sequence[str], room: int) -> list[str]:
    """Return the cells of a column aligned to the right, after a gap."""
    width = min(max(map(width_of, cells)), max(1, room - GAP), MAX_CELL_WIDTH)
    return [" " * GAP + pad(cut(cell, width), width, right=True) for cell in cells]


def _parts(columns: Sequence[list[str]], width: int) -> Iterator[list[list[str]]]:
    """Yield groups of columns that fit next to each other."""
    part: list[list[str]] = []
    for column in columns:
        if part and sum(width_of(each[0]) for each in (*part, column)) > width:
            yield part
            part = []
        part.append(column)
    yield part


def _non_finite_lines(plots: Sequence[Plot]) -> Iterator[str]:
    import numpy as np

    for plot in plots:
        for each in plot.series:
            bad = np.flatnonzero(~np.isfinite(each.curve.values))
            if len(bad):
                count = f"{len(bad)} of {len(each.curve)} points not finite"
                yield f"{_name(each)}: {count}, the last {each.curve.values[bad[-1]]} at {each.curve.steps[bad[-1]]}"


def _name(series: Series) -> str:
    """Return the label of a curve with the name of its metric."""
    return f"{series.label}/{series.curve.name.partition('/')[2]}"
