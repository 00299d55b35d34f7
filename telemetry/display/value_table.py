"""A table of the latest and best values of curves, which is also the legend of their charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from telemetry.display.plot_layout import VALIDATION, Plot, Series
from telemetry.display.styles import Style
from telemetry.display.text_width import cut, cut_middle, pad, width_of
from telemetry.reading.curve import Curve
from telemetry.units import NO_UNIT

GAP = 2
"""Columns between columns of the table."""
MAX_CELL_WIDTH = 24
"""Maximum width of a cell; only names and units may be wider."""
LINE = "─"
"""Mark of a curve in color."""


def table(plots: Sequence[Plot], styles: Mapping[str, Style], width: int, *, colours: bool) -> list[str]:
    """Return lines of up to ``width`` columns: a row for each curve, with a column for each plot.

    If there are too many plots for one line, several tables follow each other. The best values are those of the
    validation if there is one. Lines about points that cannot be drawn come last.

    Args:
        plots: the plots.
        styles: the style of each curve, by label.
        width: the available columns.
        colours: whether lines may contain SGR sequences.
    """
    labels = [label for label in styles if any(each.label == label for plot in plots for each in plot.series)]
    max_name_width = max(width // 3, min(24, width - 14))
    rows = [row for label in labels for row in _rows(label, plots, max_name_width)]
    name_width = max(width_of(name) for name, _, _ in rows)
    columns = [
        _fitted([*_heading(plot), *(cell(plot) for _, _, cell in rows)], width - name_width - 4) for plot in plots
    ]
    lines: list[str] = []
    for part in _parts(columns, width - name_width - 2):
        for number, cells in enumerate(zip(*part, strict=True)):
            name, label, _ = ("", "", None) if number < 2 else rows[number - 2]  # noqa: PLR2004 - two lines of headings
            text = pad(name, name_width) + "".join(cells)
            if text.strip():  # without units, the second line of headings is empty
                lines.append(_marked(text.rstrip(), styles.get(label), colours=colours))
    return [*lines, *(cut(line, width) for line in _non_finite_lines(plots))]


def _marked(text: str, style: Style | None, *, colours: bool) -> str:
    if style is None:
        return f"  {text}".rstrip()
    if colours:
        return f"\x1b[{style.sgr}m{LINE} {text}\x1b[0m"
    return f"{style.mark} {text}"


def _heading(plot: Plot) -> tuple[str, str]:
    curve = plot.series[0].curve
    return curve.name.rpartition("/")[2], "" if curve.unit in NO_UNIT else curve.unit


def _rows(label: str, plots: Sequence[Plot], width: int) -> Iterator[tuple[str, str, Callable[[Plot], str]]]:
    """Yield the rows of a curve: name, label if the row is marked, and the text in the column of a plot."""
    series = [each for plot in plots for each in plot.series if each.label == label]
    last = max(int(each.curve.steps.max()) for each in series)
    suffix = f" at {last}"
    name = cut_middle(label, max(8, width - len(suffix))) + suffix
    yield cut(name, width), label, lambda plot: _text(plot, label, lambda curve: _number(curve.values[-1]))
    validates = any(each.stream == VALIDATION for plot in plots for each in plot.series)
    if validates and series[0].stream != VALIDATION:
        return
    if any(_best(each.curve) is not None for each in series):
        directions = {each.curve.better for each in series if each.curve.better}
        name = {"lower": "  lowest", "higher": "  highest"}[directions.pop()] if len(directions) == 1 else "  best"
        yield name, "", lambda plot: _text(plot, label, _best_value)
        yield "  at iteration", "", lambda plot: _text(plot, label, _best_step)


def _text(plot: Plot, label: str, text: Callable[[Curve], str]) -> str:
    found = [each for each in plot.series if each.label == label]
    return text(found[0].curve) if found else ""


def _best(curve: Curve) -> int | None:
    """Return the index of the first best finite value; None if there is none."""
    import numpy as np

    finite = np.flatnonzero(np.isfinite(curve.values))
    if curve.better is None or not len(finite):
        return None
    find = np.argmax if curve.better == "higher" else np.argmin
    return int(finite[find(curve.values[finite])])


def _best_value(curve: Curve) -> str:
    return "" if (best := _best(curve)) is None else _number(curve.values[best])


def _best_step(curve: Curve) -> str:
    return "" if (best := _best(curve)) is None else str(curve.steps[best])


def _number(value: float) -> str:
    return f"{value:.4g}"


def _fitted(cells: Sequence[str], room: int) -> list[str]:
    """Return the cells of a column aligned to the right, after a gap."""
    width = min(max(map(width_of, cells)), room, MAX_CELL_WIDTH)
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
