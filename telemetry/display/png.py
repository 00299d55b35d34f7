"""Draw plots into a PNG file with matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.display.plot_layout import Plot, Series, downsample
from telemetry.errors import RunFolderError, SettingError
from telemetry.metrics import SYSTEM, VALIDATION
from telemetry.plugins.optional_imports import optional_import
from telemetry.printable import printable
from telemetry.run_folder.regular_file import open_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PLOTS = 60
"""Maximum number of plots in a figure; more would be illegible."""
MAX_MARKED_POINTS = 40
"""Curves with up to this many points have a mark at each point."""
CURVE_COLUMNS = 1500
"""Number of columns to which curves are downsampled."""
SPARSE_TICKS_MIN_RATIO = 1e4
"""At or above this ratio of the upper to the lower axis limit, a logarithmic axis has ticks only at powers of ten."""
MAX_LABEL_LENGTH, MAX_ALERT_LENGTH = 120, 60
"""Maximum length of a title or label, and of an alert, in characters."""
STRONG_COLOR, PALE_COLOR = "tab:orange", "0.7"
"""Colors of the validation, and of the first of several streams."""
COLORS = ("tab:blue", "tab:green", "tab:purple", "tab:cyan", "tab:red", "tab:olive")
"""Colors of all other streams."""
LINE_STYLES = ("-", "--", "-.", ":")


def write_png(path: Path, plots: Sequence[Plot], title: str) -> None:
    """Write a figure with the given plots to ``path``.

    Raises:
        RunFolderError: the file cannot be written.
        SettingError, PackageNotInstalled: see ``draw_figure``.
    """
    figure = draw_figure(plots, title)
    try:
        with warnings.catch_warnings():
            # Labels may be in any script; characters missing from the font are drawn as boxes.
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            with open(path, "wb", opener=open_output) as file:
                figure.savefig(file, format="png")
    except OSError as error:
        msg = f"{path} cannot be written ({error.strerror or error})"
        raise RunFolderError(msg) from error


def draw_figure(plots: Sequence[Plot], title: str) -> Figure:
    """Draw plots into one figure.

    With one run, each stream has a color: the validation a strong one, and the first of several streams, which is the
    noisiest, a pale one. With several runs, each run has a color and each stream a line style. Alerts are dotted lines
    with their titles.

    Raises:
        SettingError: there are no plots, or too many for one figure.
        PackageNotInstalled: matplotlib is not installed.
    """
    if not 0 < len(plots) <= MAX_PLOTS:
        msg = f"a figure holds 1 to {MAX_PLOTS} charts, not {len(plots)}; select metrics with --metric"
        raise SettingError(msg)
    with optional_import("drawing curves", "'aimnet2mult[plot]'"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    columns = min(len(plots), 3 if len(plots) > 4 else 2)  # noqa: PLR2004 - up to four plots fit into two rows of two
    rows = -(-len(plots) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.4 * rows + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(title))
    # Collected across all plots, so that a stream has the same color in each of them.
    streams = list(dict.fromkeys(each.stream for plot in plots for each in plot.series))
    for number, plot in enumerate(plots):
        _draw(figure.add_subplot(rows, columns, number + 1), plot, streams)
    return figure


def _draw(axes: Axes, plot: Plot, streams: Sequence[str]) -> None:
    _draw_curves(axes, plot, streams)
    if plot.is_log:
        _use_log_scale(axes)
    axes.set_title(_plain(plot.title), fontsize=10)
    if plot.direction:
        axes.set_ylabel(plot.direction, fontsize=8, color="0.4")
    axes.set_xlabel("iteration", fontsize=9)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, framealpha=0.7)
    _draw_alerts(axes, plot)


def _draw_curves(axes: Axes, plot: Plot, streams: Sequence[str]) -> None:
    several_runs = len({each.run for each in plot.series}) > 1
    for each in plot.series:
        stream = streams.index(each.stream)
        steps, values = downsample(each.curve, CURVE_COLUMNS)
        strong = each.stream == VALIDATION
        pale = stream == 0 and not strong and len({*streams} - {SYSTEM}) > 1
        color = STRONG_COLOR if strong else PALE_COLOR if pale else COLORS[stream % len(COLORS)]
        axes.plot(
            steps,
            values,
            color=f"C{each.run % 10}" if several_runs else color,
            linestyle=LINE_STYLES[stream % len(LINE_STYLES)] if several_runs else "-",
            linewidth=2.0 if strong else 1.0 if pale else 1.4,
            zorder=3 if strong else 1.5 if pale else 2,
            marker="o" if len(values) <= MAX_MARKED_POINTS else "",
            markersize=3.5,
            label=_plain(_label(each)),
        )


def _draw_alerts(axes: Axes, plot: Plot) -> None:
    first, last = axes.get_xlim()
    for alert in plot.alerts:
        if not first <= alert.step <= last:
            continue
        axes.axvline(alert.step, color="tab:red", linestyle=":", linewidth=1)
        axes.annotate(
            _plain(alert.title[:MAX_ALERT_LENGTH]),
            (alert.step, 0.98),
            xycoords=("data", "axes fraction"),
            rotation=90,
            verticalalignment="top",
            horizontalalignment="right",
            fontsize=6,
            color="tab:red",
        )


def _use_log_scale(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # If an axis spans only a few decades, ticks at powers of ten alone are too sparse to read values from.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < SPARSE_TICKS_MIN_RATIO else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label(series: Series) -> str:
    import numpy as np

    bad = int((~np.isfinite(series.curve.values)).sum())
    return f"{series.label} ({bad} not finite)" if bad else series.label


def _plain(text: str) -> str:
    """Return the text protected from matplotlib: ``$`` would start a formula, a leading ``_`` would hide a label."""
    shown = printable(text)[:MAX_LABEL_LENGTH].replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
