"""Decide, independently of the output, which curves share a plot and which scale it uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from telemetry.display.grouping import OVERALL, charts, ordered
from telemetry.display.thinning import thin
from telemetry.metrics import UNDECLARED, VALIDATION, stream_of
from telemetry.reading.curve import Curve
from telemetry.reading.run import Run
from telemetry.reading.selection import select_metrics
from telemetry.records import Alert, RunRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOG_SCALE_MIN_RATIO = 10.0
"""Smallest ratio of the largest to the smallest value for which a logarithmic scale is used."""
LOG_SCALE_CLUSTER_FRACTION = 0.25
"""A logarithmic scale is used if half of the values lie in this lowest fraction of a linear scale."""
MAX_DRAWN_VALUE = 1e300
"""Larger values are drawn as this one, so that the difference of two drawn values is finite."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A curve on a plot.

    Attributes:
        curve: the points, including non-finite ones.
        run: index of the run.
        stream: the stream of the metric.
        label: label that is unique on the plot.
    """

    curve: Curve
    run: int
    stream: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Curves of one quantity in one unit.

    Attributes:
        heading: heading of the chart (see ``charts``).
        title: the quantity with its unit.
        series: at least one, each with at least one point.
        alerts: alerts about these curves or about no particular curve, without recoveries.
    """

    heading: str
    title: str
    series: list[Series] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    @property
    def direction(self) -> str:
        """Return which values are better, in words; empty if neither, or if the curves differ."""
        found = {each.curve.better for each in self.series}
        better = found.pop() if len(found) == 1 else None
        return f"{better} is better" if better else ""

    @property
    def is_log(self) -> bool:
        """Whether a logarithmic scale shows more than a linear one."""
        import numpy as np

        values = np.concatenate([each.curve.values for each in self.series])
        values = np.minimum(values[np.isfinite(values)], MAX_DRAWN_VALUE)
        if not len(values) or values.min() < 1 / MAX_DRAWN_VALUE:
            return False
        # Divided, not multiplied: the product could overflow.
        if values.max() / LOG_SCALE_MIN_RATIO < values.min():
            return False
        return bool(np.median(values) - values.min() < LOG_SCALE_CLUSTER_FRACTION * (values.max() - values.min()))


def plots(runs: Sequence[Run], patterns: Sequence[str] = (), last: int | None = None) -> list[Plot]:
    """Return the plots of the runs, sorted by heading.

    Args:
        runs: the runs to compare.
        patterns: the metrics to draw (see ``select_metrics``); by default, all that have points.
        last: number of iterations to draw at the end of each run; None for all.

    Raises:
        MetricNotFound: a pattern matches no metric of any run.
    """
    selected = set(select_metrics(patterns, [name for run in runs for name in (*run.header.metrics, *run.curves)]))
    labels = run_labels(runs)
    found: dict[tuple[str, str, str], Plot] = {}
    for number, run in enumerate(runs):
        curves = {name: curve for name, curve in _last_part(run, last).items() if name in selected}
        for heading, group in charts({name: run.metrics.get(name, UNDECLARED) for name in curves}).items():
            for chart in group:
                # By name rather than title: runs may use different labels for the same metric.
                key = (heading, chart.names[0].partition("/")[2], curves[chart.names[0]].unit)
                plot = found.setdefault(key, Plot(heading=heading, title=chart.title))
                for name in chart.names:
                    stream = stream_of(name)
                    label = f"{labels[number]} {stream}" if len(runs) > 1 else stream
                    plot.series.append(Series(curve=curves[name], run=number, stream=stream, label=label))
                plot.alerts.extend(alerts_about(run.alerts, chart.names, set(run.curves)))
    headings = ordered(plot.heading for plot in found.values())
    return sorted(found.values(), key=lambda plot: headings.index(plot.heading))


def main_plots(found: Sequence[Plot], runs: int) -> list[Plot]:
    """Return the plots that are shown first (see ``charts``); all plots if there are none.

    If there are several runs, and a plot has curves of the validation, it has no others.
    """
    main = [plot for plot in found if plot.heading == OVERALL] or list(found)
    if runs == 1:
        return main
    return [replace(plot, series=_of_validation(plot.series) or plot.series) for plot in main]


def _of_validation(series: Sequence[Series]) -> list[Series]:
    return [each for each in series if each.stream == VALIDATION]


class _Labeled(Protocol):
    """A run with what its label is made of."""

    @property
    def header(self) -> RunRecord: ...

    @property
    def folder(self) -> Path: ...


def run_labels(runs: Sequence[_Labeled]) -> list[str]:
    """Return a unique label for each run: the name if all names differ, otherwise the ID or the folder."""
    for labels in ([r.header.name for r in runs], [r.header.run_id for r in runs], [str(r.folder) for r in runs]):
        if max(Counter(labels).values(), default=1) == 1:
            return labels
    return [f"{number} {run.folder}" for number, run in enumerate(runs, 1)]


def downsample(curve: Curve, columns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps and values of the finite points needed to draw a curve in the given number of columns.

    The points are those of ``thin``. Both arrays have the shape (kept points,).
    """
    import numpy as np

    steps, values = thin(curve, columns)
    finite = np.isfinite(values)
    return steps[finite], np.clip(values[finite], -MAX_DRAWN_VALUE, MAX_DRAWN_VALUE)


def _last_part(run: Run, last: int | None) -> dict[str, Curve]:
    if last is None or not run.curves:
        return dict(run.curves)
    end = max(int(curve.steps.max()) for curve in run.curves.values())
    cut = {name: _after(curve, end - last) for name, curve in run.curves.items()}
    return {name: curve for name, curve in cut.items() if len(curve)}


def _after(curve: Curve, step: int) -> Curve:
    keep = curve.steps > step
    return replace(
        curve,
        steps=curve.steps[keep],
        times=curve.times[keep],
        values=curve.values[keep],
        superseded=curve.superseded[keep],
    )


def alerts_about(alerts: Iterable[Alert], names: Collection[str], known: Collection[str]) -> list[Alert]:
    """Return the alerts about one of the metrics ``names``, or about none that is ``known``, without recoveries."""
    return [a for a in alerts if not a.recovered and (a.metric in names or a.metric not in known)]
