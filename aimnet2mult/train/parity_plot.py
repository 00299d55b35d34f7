"""Parity plots: predictions against labels, drawn with matplotlib."""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aimnet2mult.quantities import Label
from telemetry.units import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLORS", "Points", "describe_errors", "draw_figure", "draw_points", "quiet_glyphs"]

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray")
PANEL = 3.4
"""Width and height of a panel of a figure in inches."""
MANY = 500
"""Number of points above which they are small."""
COLUMNS = 3
"""Maximum number of panels side by side."""

Points = npt.NDArray[np.float64]
"""Labels and predictions, (2, n)."""


def draw_figure(points: Mapping[str, Points], texts: Mapping[str, str], label: Label, unit: str) -> bytes:
    """Return a figure as PNG, with a panel for each fidelity that has points.

    Args:
        points: the points by name of the fidelity.
        texts: the errors to show by name of the fidelity.
        label: the label.
        unit: its unit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [name for name, found in points.items() if found.size] or list(points)[:1]
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(PANEL * columns, PANEL * rows), layout="tight", dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, shown, strict=False):
        draw_points(axis, {name: points[name]}, label, unit, color=COLORS[list(points).index(name) % len(COLORS)])
        axis.set_title(f"{label.text[0].upper()}{label.text[1:]}, {name}", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.text(0.97, 0.03, texts[name], transform=axis.transAxes, ha="right", va="bottom", fontsize=7)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    file = io.BytesIO()
    with quiet_glyphs():
        figure.savefig(file, format="png")
    return file.getvalue()


def draw_points(
    axis: "Axes", points: Mapping[str, Points], label: Label, unit: str, *, color: str | None = None
) -> None:
    """Draw points into a panel, colored by fidelity, and the diagonal.

    Args:
        axis: the panel.
        points: the points by name of the fidelity, in the order of their colors.
        label: the label.
        unit: its unit.
        color: the color of all points; by default, each fidelity has its own, and an entry in the legend.
    """
    together = np.concatenate(list(points.values()), axis=1)
    own = [color or COLORS[index % len(COLORS)] for index in range(len(points))]
    colors = np.repeat(own, [each.shape[1] for each in points.values()])
    # In random order, no fidelity hides the others.
    order = np.random.default_rng(0).permutation(together.shape[1])
    true, pred = together[:, order]
    axis.scatter(true, pred, s=3 if len(true) > MANY else 12, c=colors[order], alpha=0.5, linewidths=0, rasterized=True)
    for name, found, each in zip(points, points.values(), own, strict=True):
        if found.size and color is None:
            axis.plot([], [], "o", ms=4, mew=0, color=each, label=name)
    low, high = (float(together.min()), float(together.max())) if together.size else (0.0, 1.0)
    margin = 0.03 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axis.plot(limits, limits, "-", color="0.3", lw=0.8, zorder=0)
    axis.set(xlim=limits, ylim=limits, aspect="equal")
    what = f"{label.text} less reference energies" if label.name == "energy" else f"reference {label.text}"
    axis.set_xlabel(with_unit(what, unit), fontsize=8)
    axis.set_ylabel(with_unit("prediction", unit), fontsize=8)


def describe_errors(metrics: Mapping[str, float], label: Label, unit: str) -> str:
    """Return the RMSE, MAE and R² of a label, a line each, as far as they are known."""
    lines = []
    for kind, text in (("rmse", "RMSE"), ("mae", "MAE"), ("r2", "R²")):
        value = metrics.get(f"{label.abbr}_{kind}")
        if value is not None:
            lines.append(f"{text} {value:.4g}" + ("" if kind == "r2" else f" {unit}"))
    return "\n".join(lines)


@contextmanager
def quiet_glyphs() -> Iterator[None]:
    """Do not warn of characters missing from the font, which are drawn as boxes: names may be in any script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield
