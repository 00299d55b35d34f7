"""Plots as a PNG file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.display.plot_model import Plot, Series, thinned
from telemetry.display.printable import printable
from telemetry.errors import RunFolderError, SettingError
from telemetry.plugins.optional_imports import optional_import

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 60
"""Plots that one figure takes; more could not be read."""
SPARSE = 40
"""Up to so many points each is marked."""
DETAIL = 1500
"""Columns in which the extremes of a curve are drawn."""
FEW = 1e4
"""Ratio of the largest to the smallest value from which on a logarithmic axis has ticks at powers of ten alone."""
STYLES = ("-", "--", "-.", ":")


def write_png(path: Path, plots: Sequence[Plot], title: str) -> None:
    """Write a figure of some plots to ``path``.

    Raises:
        RunFolderError: the file cannot be written.
        SettingError, PackageNotInstalled: see ``draw_figure``.
    """
    figure = draw_figure(plots, title)
    try:
        with warnings.catch_warnings():
            # A label may be in any script; what the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            figure.savefig(path, format="png")
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror or error})"
        raise RunFolderError(msg) from error


def draw_figure(plots: Sequence[Plot], title: str) -> Figure:
    """Draw plots into one figure.

    Of one run, each stream has a colour of its own; of several, each run has, and each stream a style. The first
    stream, where another one follows, is drawn pale: it is the noisiest. Alerts are dotted lines with their titles.

    Raises:
        SettingError: there are more plots than a figure takes, or none.
        PackageNotInstalled: matplotlib is not installed.
    """
    if not 0 < len(plots) <= MOST:
        msg = f"{len(plots)} charts in one figure; it takes 1 to {MOST}: choose with --metric"
        raise SettingError(msg)
    with optional_import("drawing curves", "'aimnet2mult[plot]'"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    columns = min(len(plots), 3 if len(plots) > 4 else 2)  # noqa: PLR2004 - two rows of two, else three in a row
    rows = -(-len(plots) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(title))
    # In all plots one colour stands for one stream, or one run.
    streams = list(dict.fromkeys(each.stream for plot in plots for each in plot.series))
    for number, plot in enumerate(plots):
        _draw(figure.add_subplot(rows, columns, number + 1), plot, streams)
    return figure


def _draw(axes: Axes, plot: Plot, streams: Sequence[str]) -> None:
    several = len({each.run for each in plot.series}) > 1
    for each in plot.series:
        stream = streams.index(each.stream)
        steps, values = thinned(each.curve, DETAIL)
        pale = stream == 0 and len(plot.series) > 1
        axes.plot(
            steps,
            values,
            color=f"C{(each.run if several else stream) % 10}",
            linestyle=STYLES[stream % len(STYLES)] if several else "-",
            alpha=0.45 if pale else 1.0,
            linewidth=1.0 if pale else 1.5,
            marker="o" if len(values) <= SPARSE else "",
            markersize=3.5,
            label=_plain(_label(each)),
        )
    if plot.is_log:
        _scale_by_logarithm(axes)
    axes.set_title(_plain(plot.title), fontsize=10)
    axes.set_xlabel("iteration", fontsize=9)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, framealpha=0.7)
    first, last = axes.get_xlim()
    for alert in plot.alerts:
        if not first <= alert.step <= last:
            continue
        axes.axvline(alert.step, color="tab:red", linestyle=":", linewidth=1)
        axes.annotate(
            _plain(alert.title[:60]),
            (alert.step, 0.98),
            xycoords=("data", "axes fraction"),
            rotation=90,
            verticalalignment="top",
            horizontalalignment="right",
            fontsize=6,
            color="tab:red",
        )


def _scale_by_logarithm(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Over few decades, powers of ten alone are too few to read a value by.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < FEW else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label(series: Series) -> str:
    import numpy as np

    bad = int((~np.isfinite(series.curve.values)).sum())
    return f"{series.label} ({bad} not finite)" if bad else series.label


def _plain(text: str) -> str:
    """Give a text of which matplotlib takes nothing for mathematics, nor a label for one to be left out."""
    shown = printable(text)[:120].replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
