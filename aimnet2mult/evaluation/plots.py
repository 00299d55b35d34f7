"""Parity plots and error histograms, drawn with matplotlib."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aimnet2mult.evaluation.points import PointSample
from aimnet2mult.evaluation.results import Result
from aimnet2mult.quantities import Label
from aimnet2mult.train.display_units import DisplayUnits
from aimnet2mult.train.parity_plot import COLORS, describe_errors, draw_points, quiet_glyphs
from telemetry.plugins.optional_imports import optional_import
from telemetry.units import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Panels", "draw_errors", "draw_parity", "require_matplotlib"]

PANEL = 4.2
"""Width and height of a panel in inches."""
MIN_BINS, MAX_BINS = 15, 81
CENTRAL = 99.5
"""Percentage of the absolute errors within the range of a histogram; the others are in its first and last bin."""


def require_matplotlib() -> None:
    """Check that plots can be drawn.

    Raises:
        PackageNotInstalled: matplotlib is not installed.
    """
    with optional_import("evaluate -o (without --no-plots)", "'aimnet2mult[plot]'"):
        import matplotlib as mpl  # noqa: F401 - is it installed?


class Panels:
    """What the figures have in common: a panel for each label with points.

    Args:
        sample: The points.
        labels: The labels.
        names: Names of the fidelities.
        units: Units of the labels.
        result: The metrics, which the panels show.
    """

    def __init__(
        self, *, sample: PointSample, labels: Sequence[Label], names: Sequence[str], units: DisplayUnits, result: Result
    ) -> None:
        self.sample = sample
        self.names = names
        self.units = units
        self.result = result
        self.labels = [label for label in labels if sample.count(label)]

    def points(self, label: Label, fidelity: int) -> Any:
        """Return labels and predictions, (2, n), in the unit of the label."""
        return self.sample.points(label, fidelity) * self.units.factor(f"{label.abbr}_rmse")

    def unit(self, label: Label) -> str:
        """Return the unit of a label."""
        return self.units.unit(f"{label.abbr}_rmse")


def draw_parity(path: Path, panels: Panels) -> None:
    """Write a figure of predictions against labels, with a panel for each label, colored by fidelity.

    Raises:
        OSError: The file cannot be written.
    """
    _draw(path, panels, _draw_parity_panel)


def draw_errors(path: Path, panels: Panels) -> None:
    """Write a figure of the distributions of the errors; see `draw_parity`."""
    _draw(path, panels, _draw_error_panel)


def _draw(path: Path, panels: Panels, draw: Callable[["Axes", Panels, Label], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    number = max(1, len(panels.labels))
    columns = min(number, 2)
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(PANEL * columns, PANEL * rows + 0.4), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axis, label in zip(axes, panels.labels, strict=False):
        draw(axis, panels, label)
    for axis in axes[len(panels.labels) :]:
        axis.set_axis_off()
    part = f", {panels.result.part} data" if panels.result.part else ""
    figure.suptitle(f"{Path(panels.result.model).name}{part}, {panels.result.structures:,} structures", fontsize=10)
    with quiet_glyphs():
        figure.savefig(path, format="png")


def _title(panels: Panels, label: Label) -> str:
    shown = sum(panels.sample.points(label, index).shape[1] for index in range(len(panels.names)))
    count = panels.sample.count(label)
    name = label.text[0].upper() + label.text[1:]
    return f"{name} ({count:,} values)" if shown == count else f"{name} ({shown:,} of {count:,} values)"


def _draw_parity_panel(axis: "Axes", panels: Panels, label: Label) -> None:
    points = {name: panels.points(label, index) for index, name in enumerate(panels.names)}
    draw_points(axis, points, label, panels.unit(label))
    _finish(axis, panels, label, corner="lower right")


def _draw_error_panel(axis: "Axes", panels: Panels, label: Label) -> None:
    errors = [np.subtract(*panels.points(label, index)[::-1]) for index in range(len(panels.names))]
    limit = float(np.percentile(np.abs(np.concatenate(errors)), CENTRAL)) or 1.0
    bins = int(np.clip(np.sqrt(max(map(len, errors))), MIN_BINS, MAX_BINS))
    edges = np.linspace(-limit, limit, bins + 1)
    for index, name in enumerate(panels.names):
        if len(errors[index]):
            inside = np.clip(errors[index], -limit, limit)
            color = COLORS[index % len(COLORS)]
            axis.hist(inside, edges.tolist(), density=True, histtype="step", lw=1.2, color=color, label=name)
    axis.axvline(0, color="0.3", lw=0.8, zorder=0)
    axis.set_xlim(-limit, limit)
    axis.set_xlabel(with_unit("prediction - reference", panels.unit(label)) + "; larger errors at the ends", fontsize=8)
    axis.set_ylabel("probability density", fontsize=8)
    _finish(axis, panels, label, corner="upper right")


def _finish(axis: "Axes", panels: Panels, label: Label, corner: str) -> None:
    axis.set_title(_title(panels, label), fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(loc="upper left", fontsize=7, frameon=False)
    y, vertical = (0.03, "bottom") if corner.startswith("lower") else (0.97, "top")
    text = describe_errors(panels.result.metrics, label, panels.unit(label))
    axis.text(0.97, y, text, transform=axis.transAxes, ha="right", va=vertical, fontsize=7)
